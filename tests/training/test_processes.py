"""A run on two processes: the same numbers as on one, shared files made once, and neither left
waiting for the other.
"""

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.launcher import Popen
from tests.training import ranks
from tests.training.conftest import Workshop

from vlv.training.checkpoint import list_checkpoints

STEPS = 4


def start_on_two(stage: str, config: Path) -> Popen[str]:
    return ranks.torchrun(2, "train", stage, "--config", str(config))


def train_on_two(stage: str, config: Path) -> None:
    process = start_on_two(stage, config)
    _, errors = process.communicate(timeout=ranks.DEADLINE)
    assert process.returncode == 0, errors


def figures(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "grad_norm" in row]


@pytest.mark.parametrize("stage", [pytest.param("text-to-image", marks=pytest.mark.slow), "stage2"])
def test_two_processes_compute_what_one_does(
    workshop: Workshop, tmp_path: Path, stage: str
) -> None:
    """On a new set, of which the two draw and encode everything once."""
    one, two, world = tmp_path / "one", tmp_path / "two", tmp_path / "world"
    data = {"folder": str(world), "count": 24, "workers": 1}
    common = {"max_train_steps": STEPS, "logging_steps": 1, "data": data}
    train_on_two(stage, workshop.config(stage, output_dir=str(two), train_batch_size=2, **common))
    # Pictures and latents, of training and validation.
    assert len(list(world.glob("*.npy"))) == 4
    assert not list(world.glob("*.tmp"))
    workshop.run(stage, output_dir=str(one), train_batch_size=4, **common)
    rows = list(zip(figures(one), figures(two), strict=True))
    assert len(rows) == STEPS
    for alone, together in rows:
        assert together["step"] == alone["step"]
        for name in ("loss", "grad_norm", "learning_rate"):
            assert together[name] == pytest.approx(alone[name], rel=1e-4), (name, alone["step"])
    for path in sorted((one / "final").rglob("*.safetensors")):
        others = load_file(two / "final" / path.relative_to(one / "final"))
        for name, value in load_file(path).items():
            # Adam turns rounding errors of gradients near zero into steps of the learning rate.
            torch.testing.assert_close(others[name], value, atol=2e-3, rtol=1e-3, msg=name)


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_rank_that_dies_ends_the_run_which_then_goes_on(
    workshop: Workshop, tmp_path: Path, victim: int
) -> None:
    folder = tmp_path / "run"
    fields = {"output_dir": str(folder), "checkpointing_steps": 5, "logging_steps": 1}
    process = start_on_two(
        "language-model", workshop.config("language-model", max_train_steps=100_000, **fields)
    )
    deadline = time.monotonic() + ranks.DEADLINE
    while not list_checkpoints(folder):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.05)
    running = ranks.children_of(process)
    assert len(running) == 2
    dead = running[victim]
    # Forked, or else each test of this kind takes many seconds to import torch.
    assert "tests.launcher" in dead.cmdline()
    dead.kill()
    _, errors = process.communicate(timeout=ranks.DEADLINE)
    assert process.returncode not in (0, None)
    assert f"Signal 9 (SIGKILL) received by PID {dead.pid}" in errors
    kept = int(list_checkpoints(folder)[-1].name.rpartition("-")[2])
    again = workshop.config("language-model", max_train_steps=kept + 3, **fields)
    train_on_two("language-model", again)
    steps = [row["step"] for row in figures(folder)]
    assert steps == list(range(1, kept + 4))
    assert (folder / "final").is_dir()


def test_runs_follow_each_other_in_the_same_processes(workshop: Workshop, tmp_path: Path) -> None:
    """Torchrun keeps its store as long as they live."""
    configs = [
        workshop.config(
            "language-model",
            output_dir=str(tmp_path / way),
            sharding=way,
            train_batch_size=2,
            logging_steps=1,
        )
        for way in ("none", "fsdp")
    ]
    words = ["language-model", *map(str, configs)]
    process = ranks.torchrun(2, *words, module="tests.training.in_turn")
    _, errors = process.communicate(timeout=ranks.DEADLINE)
    assert process.returncode == 0, errors
    losses = [[row["loss"] for row in figures(tmp_path / way)] for way in ("none", "fsdp")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
