"""What a run logs of its speed and cost, and how a budget ends it."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.conftest import Workshop
from tests.training.test_loop_duties import (
    START,
    STEPS,
    Numbers,
    OneNumber,
    one_number_config,
    rows,
)

from vlv.cli.app import exit_code
from vlv.errors import BudgetError, ConfigError
from vlv.training.checkpoint import list_checkpoints, read_checkpoint
from vlv.training.config import TrainingConfig, load_config
from vlv.training.cost.gpus import gpu_named
from vlv.training.cost.work import sample_flops
from vlv.training.loop import train
from vlv.training.registry import stage_config
from vlv.training.samples.source import Batch
from vlv.training.stage import Stage
from vlv.training.throughput import WARM_UP, Throughput, count_captions

PAUSE = 0.03


class SlowNumber(OneNumber):
    def forward(self, batch: Batch) -> Any:
        time.sleep(PAUSE)
        return super().forward(batch)


def run(folder: Path, **changes: Any) -> Path:
    config = one_number_config(folder, **changes)
    return train(Stage("slow", config, SlowNumber(), Numbers()))


def elapsed(folder: Path) -> dict[int, float]:
    """Seconds of the run at each checkpoint."""
    states = [read_checkpoint(path)[1] for path in list_checkpoints(folder)]
    return {state["step"]: state["elapsed_seconds"] for state in states}


def test_a_run_ends_after_the_step_in_which_its_hours_are_spent(tmp_path: Path) -> None:
    limit = 4.5 * PAUSE
    message = r"slow: the budget max_hours=\S+ is spent after step \d of 10; .* higher limit"
    with pytest.raises(BudgetError, match=message) as stop:
        run(tmp_path, max_hours=limit / 3600, checkpointing_steps=100)
    assert exit_code(stop.value) == 4
    # The one checkpoint that there is; the steps before it were within the limit. The hours of a
    # step are logged after they were compared.
    ((step, seconds),) = elapsed(tmp_path).items()
    assert 1 <= step <= 5 and seconds >= limit
    hours = rows(tmp_path, "hours")
    assert all(3600 * hours[earlier] < limit for earlier in range(1, step - 1))
    assert not (tmp_path / "final").exists()


def test_a_higher_limit_continues_the_run_as_if_it_had_not_ended(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    cut = tmp_path / "cut"
    with pytest.raises(BudgetError):
        run(cut, max_hours=2.5 * PAUSE / 3600)
    spent = elapsed(cut)
    # The same limit is spent already: no step is taken.
    with pytest.raises(BudgetError):
        run(cut, max_hours=2.5 * PAUSE / 3600)
    assert elapsed(cut) == spent
    final = run(cut, max_hours=1.0)
    files = [folder / "w.safetensors" for folder in (whole, final)]
    assert files[0].read_bytes() == files[1].read_bytes()
    # Hours are those of all processes of the run.
    later = elapsed(cut)
    assert later[STEPS] >= max(spent.values()) + (STEPS - max(spent)) * PAUSE
    assert list(later.values()) == sorted(later.values())


def test_money_is_hours_at_the_price_and_ends_a_run_too(tmp_path: Path) -> None:
    # A thousand USD a second.
    price = 3.6e6
    with pytest.raises(BudgetError, match="the budget max_cost_usd=100 is spent"):
        run(tmp_path, price_per_gpu_hour=price, max_cost_usd=100)
    cost, hours = rows(tmp_path, "cost_usd"), rows(tmp_path, "hours")
    assert cost == {step: pytest.approx(price * h, rel=1e-3) for step, h in hours.items()}
    assert all(cost[step] < 100 for step in list(cost)[:-1])


def test_a_run_that_is_done_with_its_last_step_is_finished(tmp_path: Path) -> None:
    with pytest.raises(BudgetError):
        run(tmp_path, max_hours=1e-9)
    assert list(elapsed(tmp_path)) == [1]
    assert (run(tmp_path, max_train_steps=1, max_hours=1e-9) / "run.json").is_file()


def test_a_limit_of_money_needs_a_price() -> None:
    with pytest.raises(ConfigError, match="max_cost_usd needs price_per_gpu_hour"):
        load_config(
            TrainingConfig,
            None,
            [
                *("output_dir=x", "max_train_steps=1", "train_batch_size=1", "learning_rate=1"),
                "max_cost_usd=5",
            ],
        )


def test_rates_leave_out_the_warm_up_and_count_captions(workshop: Workshop, tmp_path: Path) -> None:
    final = workshop.run(
        "stage2", output_dir=str(tmp_path), max_train_steps=WARM_UP + 2, logging_steps=1
    )
    phases = json.loads((final / "run.json").read_text())["phases"]
    assert (phases["warm_up"]["count"], phases["step"]["count"]) == (WARM_UP, 2)
    step = phases["step"]
    assert step["samples"] == 2 * 4 and step["tokens"] > 8 and step["padded"] >= step["tokens"]
    last = WARM_UP + 2
    rate = rows(tmp_path, "samples_per_second")[last]
    assert rate == pytest.approx(8 / step["seconds"], rel=0.01)
    tokens = rows(tmp_path, "tokens_per_second")[last]
    assert tokens / rate == pytest.approx(step["tokens"] / 8, rel=0.01)
    # A CPU is no GPU of the table.
    assert not rows(tmp_path, "share_of_peak") and not rows(tmp_path, "gpu_hours")
    assert {"first_validation", "saving", "export", "last_validation"} <= phases.keys()


def test_the_share_of_a_known_gpu_s_peak_is_what_is_counted(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes on H100s, as their driver would report them."""
    monkeypatch.setattr("vlv.training.throughput.device_name", lambda _: "NVIDIA H100 80GB HBM3")
    config, _ = stage_config("stage2", workshop.config("stage2"))
    throughput = Throughput(config, torch.device("cuda"), "bf16", 2)
    throughput.resume({"seconds": 3600.0})
    for _ in range(WARM_UP + 1):
        with throughput.step(8) as taken:
            count_captions(taken, {"caption_length": torch.tensor([5, 3, 9, 9])})
            time.sleep(0.01)
    figures = throughput.figures()
    flops = sample_flops(config, 9)
    peak = 2 * gpu_named("h100").peak("bf16")
    expected = flops * figures["samples_per_second"] / peak
    assert figures["share_of_peak"] == pytest.approx(expected)
    assert figures["gpu_hours"] == pytest.approx(2 * figures["hours"])
    assert figures["tokens_per_second"] == pytest.approx(2 * 26 / 8 * figures["samples_per_second"])


def test_checkpoints_of_before_count_their_training_time() -> None:
    config = TrainingConfig(
        output_dir=Path("x"), max_train_steps=1, train_batch_size=1, learning_rate=START
    )
    throughput = Throughput(config, torch.device("cpu"), "no", 1)
    throughput.resume({"seconds": 7200.0})
    assert throughput.figures()["hours"] == pytest.approx(2, rel=0.01)
