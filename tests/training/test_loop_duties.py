"""The loop on an objective of one number: rates, clipping, averages, metrics, pictures."""

import json
import math
import os
import signal
import sys
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.launcher import Popen
from torch import Tensor, nn

from vlv.errors import TrainingError
from vlv.training.checkpoint import list_checkpoints, read_checkpoint
from vlv.training.config import TrainingConfig
from vlv.training.loop import train
from vlv.training.objectives.objective import Objective
from vlv.training.run_folder import run_lock
from vlv.training.samples.source import Batch, SampleSource
from vlv.training.stage import Stage

STEPS = 10
START = 5.0


NAME = "one-number"


class Numbers(SampleSource):
    def __len__(self) -> int:
        return 16

    def item(self, position: int, index: int) -> Batch:
        return {"x": torch.tensor(1.0 + index / 16)}


class Noting(Numbers):
    """Leaves a file for each process that loads samples."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()

    def item(self, position: int, index: int) -> Batch:
        (self._folder / str(os.getpid())).touch()
        return super().item(position, index)


class OneNumber(Objective):
    """Learns w with w * x = x."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([START]))
        self.validated: list[float] = []

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return ((self.w - 1) * batch["x"]).square().mean(), {}

    def validate(self) -> dict[str, float]:
        assert not self.training
        self.validated.append(float(self.w))
        return {"w": float(self.w)}

    def picture(self) -> Image.Image:
        return Image.new("RGB", (4, 4))

    def export(self, folder: Path) -> None:
        save_file({"w": self.w.detach().clone()}, folder / "w.safetensors")


def one_number_config(folder: Path, **changes: Any) -> TrainingConfig:
    settings: dict[str, Any] = {
        "output_dir": folder,
        "max_train_steps": STEPS,
        "train_batch_size": 4,
        "learning_rate": 0.1,
        "checkpointing_steps": 1,
        "checkpoints_total_limit": 100,
        "logging_steps": 1,
        "report_to": "none",
    }
    return TrainingConfig(**{**settings, **changes})


def run(
    folder: Path, samples: SampleSource | None = None, **changes: Any
) -> tuple[OneNumber, Path]:
    objective = OneNumber()
    stage = Stage(NAME, one_number_config(folder, **changes), objective, samples or Numbers())
    return objective, train(stage)


def rows(folder: Path, figure: str) -> dict[int, float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row[figure] for row in lines if figure in row}


def saved(folder: Path, group: str, name: str) -> list[float]:
    """A number of every checkpoint, from the first step to the last."""
    return [float(read_checkpoint(path)[0][group][name]) for path in list_checkpoints(folder)]


@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_rate_warms_up_and_falls_to_zero_at_the_run_s_last_step(
    tmp_path: Path, schedule: str, micro_batches: int
) -> None:
    warm_up = 4
    run(
        tmp_path,
        lr_scheduler=schedule,
        lr_warmup_steps=warm_up,
        gradient_accumulation_steps=micro_batches,
    )

    def share(step: int) -> float:
        if step < warm_up:
            return step / warm_up
        passed = (step - warm_up) / (STEPS - warm_up)
        return (1 + math.cos(math.pi * passed)) / 2 if schedule == "cosine" else 1 - passed

    # What is logged with a step is the rate of the next one.
    logged = rows(tmp_path, "learning_rate")
    assert logged == {s: pytest.approx(0.1 * share(s), abs=1e-6) for s in range(1, STEPS + 1)}
    # The first step of a warm-up has a rate of zero; the second one moves.
    first, second, *_ = saved(tmp_path, "trainable", "w")
    assert first == START != second


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(TrainingError, match=r"output_dir .*mine is a file; name a folder"):
        run(tmp_path / "mine")


def test_cosines_restart_as_often_as_there_are_cycles(tmp_path: Path) -> None:
    run(tmp_path, lr_scheduler="cosine_with_restarts", lr_num_cycles=2)
    logged = rows(tmp_path, "learning_rate")
    of_a_cycle = [0.05 * (1 + math.cos(math.pi * step / 5)) for step in range(5)]
    # What is logged with a step is the rate of the next one.
    expected = [*of_a_cycle[1:], *of_a_cycle, 0.0]
    assert list(logged.values()) == pytest.approx(expected, abs=1e-6)


def test_a_run_that_is_prolonged_follows_the_longer_horizon(tmp_path: Path) -> None:
    run(tmp_path, max_train_steps=4)
    run(tmp_path)
    assert rows(tmp_path, "learning_rate")[4] == 0
    expected = {s: 0.05 * (1 + math.cos(math.pi * s / STEPS)) for s in range(5, STEPS + 1)}
    logged = rows(tmp_path, "learning_rate")
    assert {s: logged[s] for s in expected} == pytest.approx(expected, abs=1e-6)


def test_a_run_goes_on_at_another_rate_from_a_checkpoint_that_is_named(tmp_path: Path) -> None:
    """What the error of a loss that is not finite asks for; "latest" may be of another run."""
    run(tmp_path, max_train_steps=4, lr_scheduler="constant")
    lower = {"learning_rate": 0.02, "max_grad_norm": 0.5, "lr_scheduler": "constant"}
    with pytest.raises(TrainingError, match=r"of learning_rate, max_grad_norm; .*=checkpoint-4"):
        run(tmp_path, max_train_steps=6, **lower)
    run(tmp_path, max_train_steps=6, resume_from_checkpoint="checkpoint-4", **lower)
    run(tmp_path, max_train_steps=8, **lower)
    rates = rows(tmp_path, "learning_rate")
    assert [rates[step] for step in (3, 4, 5, 6, 7, 8)] == [0.1, 0.1, *[0.02] * 4]
    weights = saved(tmp_path, "trainable", "w")
    assert 0 < abs(weights[4] - weights[3]) < 0.5 * abs(weights[3] - weights[2])
    with pytest.raises(TrainingError, match=r"other values of adam_beta1; .*=null$"):
        run(tmp_path, adam_beta1=0.5, resume_from_checkpoint="checkpoint-8", **lower)


class Stopping(Numbers):
    """Numbers, of which one asks the run to stop."""

    def __init__(self, position: int) -> None:
        self._position = position

    def item(self, position: int, index: int) -> Batch:
        if position == self._position:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().item(position, index)


def test_a_run_that_is_stopped_before_its_first_step_writes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """To write the checkpoint again that it began from would put that one at risk."""
    halves = {"train_batch_size": 2, "gradient_accumulation_steps": 2}
    with pytest.raises(SystemExit):
        run(tmp_path, Stopping(0), **halves)
    assert list_checkpoints(tmp_path) == []
    run(tmp_path, max_train_steps=2, **halves)
    (before,) = [path.stat().st_ino for path in list_checkpoints(tmp_path)[-1:]]
    named = {**halves, "resume_from_checkpoint": "checkpoint-2", "max_train_steps": 4}
    with pytest.raises(SystemExit):
        run(tmp_path, Stopping(8), **named)
    assert list_checkpoints(tmp_path)[-1].stat().st_ino == before
    assert caplog.messages[-1] == "SIGTERM: stopping before the first step"
    # Later, the same command would go back to where it began.
    with pytest.raises(SystemExit):
        run(tmp_path, Stopping(12), **named)
    assert caplog.messages[-1].endswith(
        "of step 3 written, stopping; to go on, start the same command again with "
        "resume_from_checkpoint=latest"
    )


@pytest.mark.parametrize(("limit", "clipped"), [(0.5, True), (1e6, False)])
def test_gradients_are_clipped_by_their_norm(tmp_path: Path, limit: float, clipped: bool) -> None:
    run(tmp_path, max_train_steps=1, max_grad_norm=limit)
    norm = rows(tmp_path, "grad_norm")[1]
    assert norm > 1  # the norm before clipping is what is logged
    # After one step Adam's first moment is (1 - beta1) of the gradient it was given.
    (moment,) = saved(tmp_path, "optimizer", "w.exp_avg")
    assert moment == pytest.approx(0.1 * (limit if clipped else norm), rel=1e-4)


def test_the_average_is_validated_and_exported_while_the_run_goes_on_with_its_own_weights(
    tmp_path: Path,
) -> None:
    objective, final = run(tmp_path / "ema", use_ema=True, ema_decay=0.5, validation_steps=4)
    weights = saved(tmp_path / "ema", "trainable", "w")
    averages = [weights[0]]
    for step, weight in enumerate(weights[1:], 1):
        # diffusers' warm-up of the decay, 1 - (1 + step) ** -0.75, up to ema_decay.
        decay = min(1 - (1 + step) ** -0.75, 0.5)
        averages.append(decay * averages[-1] + (1 - decay) * weight)
    assert saved(tmp_path / "ema", "ema", "w") == pytest.approx(averages, rel=1e-5)
    assert averages[-1] != pytest.approx(weights[-1], rel=1e-3)
    expected = [averages[3], averages[7], averages[9], averages[9]]  # at 4, 8, the end, the export
    assert objective.validated == pytest.approx(expected, rel=1e-5)
    assert float(load_file(final / "w.safetensors")["w"]) == pytest.approx(averages[-1], rel=1e-5)

    run(tmp_path / "plain")
    assert saved(tmp_path / "plain", "trainable", "w") == weights


def test_metrics_and_pictures_come_on_their_schedules(tmp_path: Path) -> None:
    run(tmp_path, logging_steps=3, validation_steps=4, report_to="tensorboard")
    assert list(rows(tmp_path, "loss")) == [3, 6, 9, 10]
    assert all(rate > 0 for rate in rows(tmp_path, "samples_per_second").values())
    assert list(rows(tmp_path, "validation/w")) == [4, 8, 10]
    pictures = {path.name for path in (tmp_path / "samples").iterdir()}
    assert pictures == {"step-4.png", "step-8.png", "step-10.png"}
    events = EventAccumulator(str(tmp_path / NAME)).Reload()
    assert [event.step for event in events.Scalars("loss")] == [3, 6, 9, 10]
    assert [event.step for event in events.Scalars("validation/w")] == [4, 8, 10]
    (config,) = events.Tensors("config/text_summary")
    assert b"logging_steps: 3\n" in config.tensor_proto.string_val[0]


def test_workers_that_load_samples_change_nothing(tmp_path: Path) -> None:
    run(tmp_path / "none")
    run(tmp_path / "two", dataloader_num_workers=2)
    none, two = (saved(tmp_path / name, "trainable", "w") for name in ("none", "two"))
    assert none == two


def test_workers_live_as_long_as_the_run(tmp_path: Path) -> None:
    """Through five epochs, and with the order of a run that was stopped and goes on."""
    steps = {"max_train_steps": 20, "lr_scheduler": "constant"}
    whole = Noting(tmp_path / "whole-workers")
    run(tmp_path / "whole", whole, dataloader_num_workers=2, **steps)
    assert len(list((tmp_path / "whole-workers").iterdir())) == 2

    run(tmp_path / "parts", dataloader_num_workers=2, **{**steps, "max_train_steps": 7})
    run(tmp_path / "parts", dataloader_num_workers=2, **steps)
    whole_weights, parts = (saved(tmp_path / n, "trainable", "w") for n in ("whole", "parts"))
    assert parts == whole_weights


def test_a_folder_is_trained_in_by_one_process_at_a_time(tmp_path: Path) -> None:
    held = (
        "import sys, time; from pathlib import Path; from vlv.training.run_folder import run_lock\n"
        "with run_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    with Popen([sys.executable, "-c", held, str(tmp_path)], stdout=PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        message = "another process is training in"
        with pytest.raises(TrainingError, match=message), run_lock(tmp_path, patience=0.2):
            pass
        # What was killed holds nothing.
        other.kill()
        other.wait()
        run(tmp_path)
