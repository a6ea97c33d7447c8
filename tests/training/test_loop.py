"""The loop on real stages: exact resume after SIGKILL, SIGTERM, non-finite values, accumulation."""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from subprocess import PIPE

import pytest
import torch
from safetensors.torch import load_file
from tests.launcher import Popen
from tests.training.conftest import Workshop
from tests.training.written import write_checkpoint

from vlv.errors import TrainingError
from vlv.training.checkpoint import list_checkpoints, read_checkpoint
from vlv.training.loop import train
from vlv.training.registry import build_stage

# More steps than a run makes between two kills, so that every kill hits a run in progress.
STEPS_A_KILL = 15
CHECKPOINTING_STEPS = 3
WEIGHTS = "diffusion_pytorch_model.safetensors"


def start(stage: str, config: Path) -> Popen[str]:
    command = [sys.executable, "-m", "vlv.cli", "train", stage, "--config", str(config)]
    return Popen(command, stderr=PIPE, stdout=PIPE, text=True)


def newest_step(folder: Path) -> int:
    found = list_checkpoints(folder)
    return int(found[-1].name.rpartition("-")[2]) if found else 0


def wait_for_checkpoint(folder: Path, process: Popen[str]) -> None:
    """Until the run has written a checkpoint of its own (or has ended)."""
    beyond = newest_step(folder)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if newest_step(folder) > beyond or process.poll() is not None:
            return
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint after step {beyond} in {folder}")


def whole_state(folder: Path, steps: int) -> tuple[dict[str, torch.Tensor], list[str]]:
    tensors, state = read_checkpoint(list_checkpoints(folder)[-1])
    assert state["step"] == steps
    flat = {f"{group}/{k}": v for group, named in tensors.items() for k, v in named.items()}
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    losses = [line for line in lines if "samples_per_second" in line]
    assert [json.loads(line)["step"] for line in losses] == list(range(1, steps + 1))
    return flat, [str(json.loads(line)["loss"]) for line in losses]


def run_with_kills(workshop: Workshop, steps: int, kills: int) -> Path:
    """A run in the mini's own modes: EMA, bfloat16, warm-up; and accumulation."""
    chance = random.Random(kills)
    folder = workshop.root / f"killed-{kills}-of-{steps}"
    config = workshop.config(
        "text-to-image",
        output_dir=str(folder),
        max_train_steps=steps,
        train_batch_size=2,
        gradient_accumulation_steps=2,
        use_ema=True,
        mixed_precision="bf16",
        lr_warmup_steps=5,
        checkpointing_steps=CHECKPOINTING_STEPS,
        validation_steps=1000,
        logging_steps=1,
    )
    for _ in range(kills):
        process = start("text-to-image", config)
        wait_for_checkpoint(folder, process)
        time.sleep(chance.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
        # What a kill leaves as the last checkpoint can be read.
        read_checkpoint(list_checkpoints(folder)[-1])
    train(build_stage("text-to-image", config))
    return folder


def check_killed_run_equals_whole_run(workshop: Workshop, kills: int) -> None:
    steps = STEPS_A_KILL * kills
    killed = run_with_kills(workshop, steps, kills)
    whole = run_with_kills(workshop, steps, kills=0)
    (state, losses), (expected, expected_losses) = (whole_state(f, steps) for f in (killed, whole))
    assert losses == expected_losses
    assert state.keys() == expected.keys()
    assert [name for name in state if not torch.equal(state[name], expected[name])] == []
    made, wanted = (f / "final" / "unet" / WEIGHTS for f in (killed, whole))
    assert made.read_bytes() == wanted.read_bytes()


def test_a_killed_run_ends_bit_identical(workshop: Workshop) -> None:
    check_killed_run_equals_whole_run(workshop, kills=1)


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_bit_identical(workshop: Workshop) -> None:
    check_killed_run_equals_whole_run(workshop, kills=20)


def test_sigterm_saves_and_exits_143_within_30_seconds(workshop: Workshop) -> None:
    folder = workshop.root / "terminated"
    process = start(
        "language-model",
        workshop.config(
            "language-model",
            output_dir=str(folder),
            max_train_steps=100_000,
            checkpointing_steps=5,
            logging_steps=1,
        ),
    )
    wait_for_checkpoint(folder, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "SIGTERM: checkpoint of step" in errors
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert list_checkpoints(folder)[-1].name == f"checkpoint-{last}"


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    workshop: Workshop,
) -> None:
    folder = workshop.root / "diverged"
    with pytest.raises(TrainingError, match=r"language-model: the (loss|gradient) is (nan|inf)"):
        workshop.run(
            "language-model",
            output_dir=str(folder),
            max_train_steps=50,
            learning_rate=1.0e30,
            checkpointing_steps=1,
        )
    tensors, _ = read_checkpoint(list_checkpoints(folder)[-1])
    assert tensors["trainable"] and tensors["optimizer"]
    for group in tensors.values():
        assert all(value.isfinite().all() for value in group.values())
    assert not (folder / "final").exists()


def test_accumulated_micro_batches_equal_one_large_batch(workshop: Workshop) -> None:
    def weights(name: str, batch: int, micro: int) -> dict[str, torch.Tensor]:
        final = workshop.run(
            "vae",
            output_dir=str(workshop.root / name),
            normalisation_count=32,
            train_batch_size=batch,
            gradient_accumulation_steps=micro,
        )
        return load_file(final / "vae" / "diffusion_pytorch_model.safetensors")

    large, accumulated = weights("large", 8, 1), weights("accumulated", 2, 4)
    for name, value in large.items():
        torch.testing.assert_close(accumulated[name], value, atol=2e-4, rtol=1e-3)


def test_resuming_with_other_settings_is_refused(workshop: Workshop) -> None:
    with pytest.raises(TrainingError, match="other values of learning_rate"):
        workshop.run("language-model", max_train_steps=4, learning_rate=0.5)


def test_a_damaged_checkpoint_is_named(workshop: Workshop, tmp_path: Path) -> None:
    workshop.run("language-model", output_dir=str(tmp_path / "lm"))
    weights = list_checkpoints(tmp_path / "lm")[-1] / "trainable.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(TrainingError, match=r"trainable\.safetensors is missing or damaged"):
        workshop.run("language-model", output_dir=str(tmp_path / "lm"), max_train_steps=3)


def test_moments_of_a_parameter_that_does_not_train_are_named(
    workshop: Workshop, tmp_path: Path
) -> None:
    workshop.run("language-model", output_dir=str(tmp_path), max_train_steps=1)
    tensors, state = read_checkpoint(tmp_path / "checkpoint-1")
    tensors["optimizer"]["lm.adapter.weight.exp_avg"] = torch.zeros(2)
    write_checkpoint(tmp_path, 1, tensors, state)
    with pytest.raises(
        TrainingError, match=r"checkpoint-1 does not .* optimizer knows lm\.adapter\.weight, which"
    ):
        workshop.run("language-model", output_dir=str(tmp_path), max_train_steps=2)


def test_old_checkpoints_go_and_unfinished_ones_are_not_resumed(
    workshop: Workshop, tmp_path: Path
) -> None:
    folder = tmp_path / "lm"
    (folder / ".unfinished-3").mkdir(parents=True)
    (folder / "checkpoint-9").mkdir()
    workshop.run(
        "language-model",
        output_dir=str(folder),
        max_train_steps=4,
        checkpointing_steps=1,
        checkpoints_total_limit=2,
    )
    assert [p.name for p in list_checkpoints(folder)] == ["checkpoint-3", "checkpoint-4"]
    assert not os.path.exists(folder / ".unfinished-3")
