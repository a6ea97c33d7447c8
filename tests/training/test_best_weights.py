"""The best weights of a run, and those until each of its checkpoints; a process that is killed
while it writes them.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import launcher
from tests.training.conftest import Workshop, weights
from tests.training.written import as_of_an_earlier_version

from vlv.errors import TrainingError
from vlv.training.best_weights import BestFile, BestWeights
from vlv.training.checkpoint import list_checkpoints
from vlv.training.exporting import export_run

# A validation and a checkpoint at each step; each step is better than the one before.
EVERY_STEP: dict[str, Any] = {
    "checkpointing_steps": 1,
    "checkpoints_total_limit": 9,
    "validation_steps": 1,
    "lr_scheduler": "constant",
    "keep_best": "caption_loss",
}
# Every step is worse than any before.
WORSE = {"learning_rate": 5.0}

# Stops in the middle of the file.
_WRITER = """
import sys, torch
from pathlib import Path
from vlv.training import best_weights

def half(tensors, path, numbers):
    Path(path).write_bytes(b"half")
    print("half", flush=True)
    sys.stdin.read()

best_weights.save_file = half
best_weights.BestWeights(Path(sys.argv[1]), "loss").offer({"loss": 1.0}, 1, {"w": torch.zeros(1)})
"""


def test_what_a_killed_process_left_of_them_goes_with_the_next_ones(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = launcher.Popen(command, text=True, **pipes)
    assert process.stdout is not None and process.stdout.readline() == "half\n"
    process.kill()
    process.communicate()
    assert list(tmp_path.iterdir()) and not (tmp_path / "best.safetensors").exists()
    BestWeights(tmp_path, "loss").offer({"loss": 1.0}, 1, {"small": torch.zeros(1)})
    assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]


def best_step(final: Path) -> int | None:
    step: int | None = json.loads((final / "run.json").read_text())["best_step"]
    return step


def same_weights(one: Path, other: Path) -> bool:
    mine, theirs = weights(one), weights(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[x], theirs[x]) for x in mine)


@pytest.fixture
def run(workshop: Workshop, tmp_path: Path) -> Path:
    """The folder of a run of three steps, of which the last is the best."""
    folder = tmp_path / "run"
    final = workshop.run("stage2", output_dir=str(folder), max_train_steps=3, **EVERY_STEP)
    assert best_step(final) == 3
    return folder


def test_a_run_that_ends_earlier_exports_no_later_weights(
    workshop: Workshop, tmp_path: Path, run: Path
) -> None:
    short = workshop.run(
        "stage2", output_dir=str(tmp_path / "short"), max_train_steps=1, **EVERY_STEP
    )
    for left in ("final", "checkpoint-2", "checkpoint-3"):
        shutil.rmtree(run / left)
    final = workshop.run("stage2", output_dir=str(run), max_train_steps=1, **EVERY_STEP)
    assert best_step(final) == 1
    assert same_weights(final, short)


def test_each_checkpoint_keeps_what_was_the_best_until_its_step(
    workshop: Workshop, run: Path
) -> None:
    """A run that goes on from an earlier one, gets worse, and is given up in turn."""
    fields = {**EVERY_STEP, "output_dir": str(run)}
    latest = weights(run / "final")
    changes = {**fields, **WORSE, "resume_from_checkpoint": "checkpoint-2", "max_train_steps": 4}
    worse = workshop.run("stage2", **changes)
    assert best_step(worse) == 2
    shutil.rmtree(worse)
    for step in (3, 4):
        assert BestFile(run / f"checkpoint-{step}" / "best.safetensors").step == 2
    given_up = {**fields, "resume_from_checkpoint": "checkpoint-2", "max_train_steps": 3}
    final = workshop.run("stage2", **given_up)
    assert best_step(final) == 3
    assert all(torch.equal(value, latest[name]) for name, value in weights(final).items())
    assert [one.name for one in list_checkpoints(run)][-1] == "checkpoint-3"


def test_best_weights_go_along_into_another_folder(
    workshop: Workshop, tmp_path: Path, run: Path
) -> None:
    fields = {**EVERY_STEP, **WORSE, "output_dir": str(run)}
    shutil.rmtree(run / "final")
    ended = workshop.run(
        "stage2", **fields, resume_from_checkpoint="checkpoint-1", max_train_steps=2
    )
    fields |= {"output_dir": str(tmp_path / "other"), "max_train_steps": 2}
    checkpoint = str(run / "checkpoint-2")
    exported = workshop.run("stage2", **fields, resume_from_checkpoint=checkpoint)
    assert best_step(exported) == best_step(ended) == 1
    assert same_weights(exported, ended)


def test_without_the_best_weights_a_run_goes_on_with_its_own(
    workshop: Workshop, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fields = {**EVERY_STEP, "output_dir": str(run)}
    shutil.rmtree(run / "final")
    for step in (2, 3):
        (run / f"checkpoint-{step}" / "best.safetensors").unlink()
    final = workshop.run("stage2", **fields, max_train_steps=3)
    assert best_step(final) is None
    assert "checkpoint-3/best.safetensors is gone: the run goes on without" in caplog.text
    assert "keeps no best weights of step 3 or before: the last ones are exported" in caplog.text
    exported = export_run(run)
    assert best_step(exported) is None
    assert same_weights(exported, final)
    final = workshop.run("stage2", **fields, max_train_steps=4)
    assert best_step(final) == 4


def test_best_weights_that_are_lost_while_the_run_goes_on_are_named(
    workshop: Workshop, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And are there again when it is started again, since its checkpoint has them."""
    fields = {**EVERY_STEP, "output_dir": str(run), "max_train_steps": 3}
    shutil.rmtree(run / "final")
    resume = BestWeights.resume

    def lose(best: BestWeights, *kept: Any) -> None:
        resume(best, *kept)
        (run / "best.safetensors").unlink()

    with monkeypatch.context() as patch:
        patch.setattr(BestWeights, "resume", lose)
        with pytest.raises(TrainingError, match=r"run/best\.safetensors is damaged \("):
            workshop.run("stage2", **fields)
    assert best_step(workshop.run("stage2", **fields)) == 3


def test_a_checkpoint_of_an_earlier_version_takes_those_of_its_run(
    workshop: Workshop, run: Path
) -> None:
    """And keeps them from then on; newer ones do not count."""
    fields = {**EVERY_STEP, "output_dir": str(run), "max_train_steps": 3}
    for step in (2, 3):
        as_of_an_earlier_version(run / f"checkpoint-{step}", "best")
        assert not (run / f"checkpoint-{step}" / "best.safetensors").exists()
    assert best_step(export_run(run, step=2)) is None
    assert best_step(export_run(run, step=3)) == 3
    shutil.rmtree(run / "final")
    assert best_step(workshop.run("stage2", **fields)) == 3
    assert BestFile(run / "checkpoint-3" / "best.safetensors").step == 3
    workshop.run("stage2", **fields | {"max_train_steps": 4})
    assert BestFile(run / "best.safetensors").step == 4
    assert best_step(export_run(run, run / "again", step=3)) == 3


def test_what_is_read_of_a_file_belongs_together(tmp_path: Path) -> None:
    """A run may replace it meanwhile."""
    best = BestWeights(tmp_path, "loss")
    best.offer({"loss": 2.0}, 1, {"a": torch.zeros(3)})
    opened = BestFile(tmp_path / "best.safetensors")
    best.offer({"loss": 1.0}, 2, {"a": torch.ones(3)})
    assert opened.step == 1 and torch.equal(opened.tensors()["a"], torch.zeros(3))


def test_a_disk_without_second_names_keeps_copies(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*names: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    fields = {**EVERY_STEP, "output_dir": str(tmp_path), "max_train_steps": 2}
    assert best_step(workshop.run("stage2", **fields)) == 2
    fields |= {**WORSE, "resume_from_checkpoint": "checkpoint-1"}
    assert best_step(workshop.run("stage2", **fields)) == 1


def test_what_a_killed_save_set_aside_goes_with_the_next_one(
    workshop: Workshop, tmp_path: Path
) -> None:
    left = tmp_path / ".unfinished-1-beside"
    left.mkdir()
    (left / "best.safetensors").write_text("of a save that was cut off")
    fields = {**EVERY_STEP, "output_dir": str(tmp_path), "max_train_steps": 1}
    workshop.run("stage2", **fields)
    assert not list(tmp_path.glob(".unfinished*"))
    assert BestFile(tmp_path / "checkpoint-1" / "best.safetensors").step == 1
