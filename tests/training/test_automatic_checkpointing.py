"""`gradient_checkpointing: auto`: decided by the count, said in the log and in the bill."""

import logging
from pathlib import Path

import pytest
from tests.training.conftest import Workshop

from vlv.training import automatic_checkpointing
from vlv.training.automatic_checkpointing import settled
from vlv.training.config import load_config
from vlv.training.cost.gpus import gpu_named
from vlv.training.memory import objective_memory
from vlv.training.meta_steps import encoder_objective, meta_boxes
from vlv.training.objectives.encoding import EncoderObjective
from vlv.training.pricing import price_run
from vlv.training.registry import build_stage
from vlv.training.stages.stage1 import Stage1Config


@pytest.fixture
def path(workshop: Workshop) -> Path:
    """A config that leaves it to the count."""
    return workshop.config("stage1", gradient_checkpointing="auto")


def test_it_is_on_only_where_the_count_is_above_what_there_is(path: Path) -> None:
    config = load_config(Stage1Config, path)
    kept = config.model_copy(update={"gradient_checkpointing": False})
    need = objective_memory(kept, encoder_objective(kept, meta_boxes(kept).boxes)).total
    roomy, reason = settled(config, 2 * need)
    assert (roomy.gradient_checkpointing, " is off: " in reason) == (False, True)
    narrow, reason = settled(config, need)  # nothing to spare
    assert (narrow.gradient_checkpointing, " is on: " in reason) == (True, True)
    assert settled(kept, 1) == (kept, "")


@pytest.mark.parametrize(("room", "switch"), [(1 << 40, False), (1 << 20, True)])
def test_a_run_decides_for_its_device_and_says_so(
    path: Path,
    room: int,
    switch: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(automatic_checkpointing, "free_memory", lambda _: room)
    with caplog.at_level(logging.INFO):
        stage = build_stage("stage1", path)
    assert isinstance(stage.objective, EncoderObjective)
    assert stage.objective.decoder is not None
    assert stage.objective.decoder.unet.is_gradient_checkpointing == switch
    assert f"gradient_checkpointing (auto) is {'on' if switch else 'off'}" in caplog.text


@pytest.mark.slow
def test_a_bill_decides_for_the_gpu_that_it_names(path: Path) -> None:
    bill = price_run(path, [], gpu=gpu_named("h100"))
    assert sum(part.again for part in bill.work.sample.values()) == 0
    assert any("(auto) is off" in line and "H100" in line for line in bill.assumed)
    small = gpu_named("l4").model_copy(update={"memory": 1e-4})
    again = price_run(path, [], gpu=small).work.sample
    assert sum(part.again for part in again.values()) > 0
