"""Weights that are spread over processes: the same numbers as in one process, and checkpoints that
any number of processes goes on from.
"""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training import ranks
from tests.training.conftest import Workshop
from torch import nn

from vlv.errors import ConfigError
from vlv.training.accelerator import computing_device
from vlv.training.checkpoint import Tensors, list_checkpoints, read_checkpoint
from vlv.training.loop import train
from vlv.training.registry import build_stage
from vlv.training.sharding import blocks_to_shard

SAMPLES = 4
DUTIES = {
    "lr_scheduler": "constant",
    "logging_steps": 1,
    "use_ema": True,
    "keep_best": "caption_loss",
    "validation_steps": 2,
    "validation_picture": True,
    "checkpointing_steps": 2,
}


def spread(
    workshop: Workshop, stage: str, folder: Path, processes: int, machines: int = 1, **changes: Any
) -> Path:
    """Train on so many processes."""
    changes = {"train_batch_size": SAMPLES // processes, **changes}
    config = workshop.config(stage, output_dir=str(folder), **changes)
    if processes == 1:
        train(build_stage(stage, config))
        return folder
    code, errors = ranks.run(stage, [config] * processes, machines)
    assert code == 0, errors
    return folder


def alone(workshop: Workshop, stage: str, folder: Path, **changes: Any) -> Path:
    workshop.run(stage, output_dir=str(folder), train_batch_size=SAMPLES, **changes)
    return folder


def metrics(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    times = {"samples_per_second", "tokens_per_second", "hours"}
    return [{k: v for k, v in row.items() if k not in times} for row in rows]


def check_same(one: Path, other: Path, tolerance: float) -> None:
    """Metrics, exported weights and the last checkpoint."""
    for mine, theirs in zip(metrics(one), metrics(other), strict=True):
        assert theirs == pytest.approx(mine, rel=tolerance, abs=tolerance)
    for path in sorted((one / "final").rglob("*.safetensors")):
        found = load_file(other / "final" / path.relative_to(one / "final"))
        for name, value in load_file(path).items():
            torch.testing.assert_close(found[name], value, atol=tolerance, rtol=0, msg=name)
    (mine, state), (theirs, other_state) = (
        read_checkpoint(list_checkpoints(folder)[-1]) for folder in (one, other)
    )
    assert state["step"] == other_state["step"]
    assert mine.keys() == theirs.keys()
    for group, named in mine.items():
        assert named.keys() == theirs[group].keys()
        for name, value in named.items():
            torch.testing.assert_close(theirs[group][name], value, atol=tolerance, rtol=0, msg=name)


def test_two_processes_with_half_of_the_weights_compute_what_one_does(
    workshop: Workshop, tmp_path: Path
) -> None:
    """Clipping, average, best weights, validation, picture, export; then on in one process."""
    changes = {**DUTIES, "distillation_weight": 1.0}
    one = alone(workshop, "stage2", tmp_path / "one", max_train_steps=4, **changes)
    two = tmp_path / "two"
    spread(workshop, "stage2", two, 2, sharding="fsdp", max_train_steps=2, **changes)
    part = load_file(two / "checkpoint-2" / "trainable-00001.safetensors")
    whole, _ = read_checkpoint(two / "checkpoint-2")
    sizes = [sum(x.numel() for x in named.values()) for named in (part, whole["trainable"])]
    assert 0.3 < sizes[0] / sizes[1] < 0.7
    alone(workshop, "stage2", two, max_train_steps=4, **changes)
    check_same(one, two, 1e-5)
    assert (tmp_path / "one" / "samples" / "step-2.png").is_file()
    assert (two / "samples" / "step-2.png").is_file()


@pytest.mark.slow
def test_a_process_that_lacks_the_checkpoint_is_an_error_on_all(
    workshop: Workshop, tmp_path: Path
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    alone(workshop, "language-model", here, max_train_steps=1)
    fields = {"train_batch_size": 2, "max_train_steps": 2}
    given = {"resume_from_checkpoint": "checkpoint-1", **fields}
    configs = [
        workshop.config("language-model", output_dir=str(folder), **given)
        for folder in (here, elsewhere)
    ]
    code, errors = ranks.run("language-model", configs)
    assert code == 1
    said = [line for line in errors.splitlines() if line.startswith("vlv: ")]
    assert len(said) == 2 and said[0] == said[1], errors
    assert "checkpoint-1" in said[0] and "process 1" in said[0]


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"])
def test_other_ways_to_share_work_are_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigError, match="set sharding: fsdp or hybrid"):
        computing_device()


def test_frozen_blocks_are_spread_by_their_size() -> None:
    def stack(width: int) -> nn.ModuleList:
        return nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(2))

    frozen, small, trained = stack(8), stack(2), stack(2)
    model = nn.ModuleDict({"frozen": frozen, "small": small, "trained": trained})
    for part in (frozen, small):
        part.requires_grad_(False)
    assert blocks_to_shard(model, 2 * 8 * 8 * 4) == [*frozen, *trained]
    assert blocks_to_shard(model, 2 * 8 * 8 * 4 + 1) == [*trained]


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp", "hybrid"])
def test_fifty_steps_are_those_of_one_process(
    workshop: Workshop, tmp_path: Path, sharding: str
) -> None:
    """On 2 and 4 processes (`hybrid`: two machines of two)."""
    changes = {**DUTIES, "max_train_steps": 50, "validation_steps": 25, "checkpointing_steps": 25}
    one = alone(workshop, "stage2", tmp_path / "one", **changes)
    machines = 2 if sharding == "hybrid" else 1
    for count in (2, 4)[machines - 1 :]:
        folder = tmp_path / str(count)
        spread(workshop, "stage2", folder, count, machines, sharding=sharding, **changes)
        check_same(one, folder, 1e-5)  # the log has six digits


BFLOAT16 = {"mixed_precision": "bf16", "frozen_dtype": "bf16"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("frozen_bytes", "changes", "tolerance"),
    [
        pytest.param(None, {}, 2e-6, id="accumulation"),
        pytest.param(None, {"gradient_checkpointing": True}, 2e-6, id="checkpointing"),
        pytest.param(None, BFLOAT16, 2e-6, id="frozen"),
        # The U-Net's blocks, and not the VAE's, whose weights are read otherwise too.
        pytest.param("32000", {}, 2e-6, id="spread"),
        # Gradients of activations are sums in bfloat16, in another order.
        pytest.param("16000", BFLOAT16, 5e-3, id="frozen and spread"),
    ],
)
def test_settings_that_save_memory_compute_what_one_process_does(
    workshop: Workshop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    frozen_bytes: str | None,
    changes: dict[str, Any],
    tolerance: float,
) -> None:
    """Each gradient is of one sample; the log has six digits."""
    if frozen_bytes is not None:
        monkeypatch.setenv(ranks.FROZEN_BYTES, frozen_bytes)
    for name, processes in (("one", 1), ("two", 2)):
        spread(
            workshop,
            "stage2",
            tmp_path / name,
            processes,
            **{**DUTIES, **changes},
            sharding="fsdp",
            max_train_steps=6,
            train_batch_size=1,
            gradient_accumulation_steps=SAMPLES // processes,
        )
    check_same(tmp_path / "one", tmp_path / "two", tolerance)


def resumed_and_whole(
    workshop: Workshop, stage: str, folder: Path, count: int, samples: int
) -> tuple[Path, Path]:
    """Runs of six steps: saved by two processes after three and resumed by `count`; and by two all
    the way. Each gradient is of one sample, and none is clipped: a norm is a sum over processes.
    """

    def run(name: str, processes: int, steps: int) -> Path:
        return spread(
            workshop,
            stage,
            folder / name,
            processes,
            checkpointing_steps=3,
            validation_steps=3,
            lr_scheduler="constant",
            logging_steps=1,
            use_ema=True,
            max_train_steps=steps,
            sharding="fsdp",
            train_batch_size=1,
            gradient_accumulation_steps=samples // processes,
            max_grad_norm=1e6,
        )

    run("resumed", 2, 3)
    resumed, whole = run("resumed", count, 6), run("whole", 2, 6)
    before, after = (read_checkpoint(one / "checkpoint-3")[0] for one in (resumed, whole))
    assert set(distance(before, after).values()) == {0.0}
    return resumed, whole


def distance(one: Tensors, other: Tensors) -> dict[str, float]:
    """The largest difference of a number in each group."""
    assert one.keys() == other.keys()
    return {
        group: max(float((value - other[group][name]).abs().max()) for name, value in named.items())
        for group, named in one.items()
    }


def test_one_process_goes_on_bit_by_bit_from_what_two_saved(
    workshop: Workshop, tmp_path: Path
) -> None:
    """A sum of two gradients has no order."""
    resumed, whole = resumed_and_whole(workshop, "language-model", tmp_path, count=1, samples=2)
    mine, theirs = (read_checkpoint(one / "checkpoint-6")[0] for one in (resumed, whole))
    assert set(distance(mine, theirs).values()) == {0.0}


@pytest.mark.slow
@pytest.mark.parametrize(("count", "samples"), [(1, 2), (4, 4)])
def test_any_number_of_processes_goes_on_from_what_two_saved(
    workshop: Workshop, tmp_path: Path, count: int, samples: int
) -> None:
    """From the first step on, the last bits of the encoder's gradients differ where its weights are
    spread (those of the language model do not); and four processes sum four gradients in another
    order than two.
    """
    resumed, whole = resumed_and_whole(workshop, "stage2", tmp_path, count, samples)
    mine, theirs = (read_checkpoint(one / "checkpoint-6")[0] for one in (resumed, whole))
    apart = distance(mine, theirs)
    print(f"{count} processes:", apart)
    assert max(apart.values()) <= 1e-6
    for one, other in zip(metrics(resumed), metrics(whole), strict=True):
        assert one == pytest.approx(other, rel=2e-6)  # the log has six digits


def train_with_kills(workshop: Workshop, folder: Path, kills: int, steps: int) -> None:
    """Two processes, of which a random one is killed at a random moment, `kills` times."""
    chance = random.Random(0)
    changes = {"sharding": "fsdp", "checkpointing_steps": 3, "logging_steps": 1, "use_ema": True}
    changes |= {"train_batch_size": 2, "max_train_steps": steps, "validation_steps": steps}
    config = workshop.config("language-model", output_dir=str(folder), **changes)
    for _ in range(kills):
        beyond = [path.name for path in list_checkpoints(folder)]
        process = ranks.start("language-model", [config] * 2)
        deadline = time.monotonic() + ranks.DEADLINE
        while [path.name for path in list_checkpoints(folder)] == beyond:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        running = ranks.children_of(process)
        assert len(running) == 2
        running[chance.randrange(2)].kill()
        process.communicate(timeout=ranks.DEADLINE)
        assert process.returncode == 9
        read_checkpoint(list_checkpoints(folder)[-1])
    code, errors = ranks.run("language-model", [config] * 2)
    assert code == 0, errors


@pytest.mark.slow
def test_twenty_kills_of_random_processes_change_nothing(
    workshop: Workshop, tmp_path: Path
) -> None:
    kills, steps = 20, 800
    train_with_kills(workshop, tmp_path / "killed", kills, steps)
    train_with_kills(workshop, tmp_path / "whole", 0, steps)
    check_same(tmp_path / "whole", tmp_path / "killed", 0.0)
    # No kill left a part of a checkpoint that is never removed.
    left = set((tmp_path / "killed").glob("*checkpoint-*"))
    assert left == set(list_checkpoints(tmp_path / "killed"))
