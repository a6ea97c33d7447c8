"""`vlv export`: what a run would have made if it had ended at a checkpoint."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Outcome
from tests.training.conftest import Workshop
from tests.training.written import write_checkpoint

from vlv.errors import TrainingError
from vlv.pipeline import VLV
from vlv.training import exporting
from vlv.training.checkpoint import list_checkpoints, read_checkpoint

# Fields of records that say when and where a run was made.
OWN = {"output_dir", "max_train_steps", "seconds", "elapsed_seconds", "phases"}
EVERY_STEP = {
    "checkpointing_steps": 1,
    "checkpoints_total_limit": 9,
    "validation_steps": 1,
    "validation_picture": False,
    "lr_scheduler": "constant",
}


def without_own(value: Any) -> Any:
    """A record without what differs between runs; measures as exact as the metrics log has them."""
    if isinstance(value, dict):
        return {name: without_own(one) for name, one in value.items() if name not in OWN}
    return pytest.approx(value, rel=1e-5) if isinstance(value, float) else value


def files(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.name in ("run.json", "vlv.json"):
            found[path.name] = without_own(json.loads(path.read_text()))
        elif path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("vae", {}),
        ("stage2", {"use_ema": True}),
        ("stage2", {"keep_best": "caption_loss", "learning_rate": 5.0}),
    ],
)
def test_an_export_is_what_the_run_would_have_ended_with(
    workshop: Workshop, tmp_path: Path, stage: str, changes: dict[str, Any]
) -> None:
    fields = {**EVERY_STEP, **changes}
    run = tmp_path / "run"
    workshop.run(stage, output_dir=str(run), max_train_steps=3, **fields)
    final = workshop.run(stage, output_dir=str(tmp_path / "short"), max_train_steps=2, **fields)
    exported = {2: exporting.export_run(run, step=2), 3: exporting.export_run(run, tmp_path / "o")}
    for step, expected in ((2, files(final)), (3, files(run / "final"))):
        for name, content in files(exported[step]).items():
            assert content == expected.pop(name), (step, name)
        assert not expected, step


def test_the_command_exports_the_newest_checkpoint(
    workshop: Workshop, tmp_path: Path, vlv: Callable[..., Outcome]
) -> None:
    run = tmp_path / "run"
    workshop.run("stage1", output_dir=str(run), **EVERY_STEP)
    shutil.rmtree(run / "final")
    outcome = vlv("export", run)
    assert (outcome.code, outcome.out) == (0, f"{run / 'export-2'}\n"), outcome.err
    assert VLV.from_pretrained(run / "export-2").provenance["stages"]["stage1"]["steps"] == 2
    outcome = vlv("export", run, "--step", 7)
    assert outcome.code == 1
    assert "has no checkpoint of step 7; it has those of steps " in outcome.err
    outcome = vlv("export", tmp_path)
    assert outcome.code == 1
    assert "has no checkpoint yet" in outcome.err
    # A model that --out names is not replaced by mistake.
    other = workshop.root / "s1" / "final"
    outcome = vlv("export", run, "--out", other)
    assert outcome.code == 2 and "exists already" in outcome.err
    assert vlv("export", run, "--out", run / "export-2", "--overwrite").code == 0


def test_a_checkpoint_that_the_run_removes_meanwhile_is_replaced_by_the_next(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, later = tmp_path / "run", tmp_path / "later"
    workshop.run("language-model", output_dir=str(run), **EVERY_STEP)
    (run / "checkpoint-2").rename(later)

    def removed_meanwhile(folder: Path) -> Any:
        if later.exists():
            later.rename(run / "checkpoint-2")
            shutil.rmtree(folder)
        return read_checkpoint(folder)

    monkeypatch.setattr(exporting, "read_checkpoint", removed_meanwhile)
    assert exporting.export_run(run).name == "export-2"
    assert [path.name for path in list_checkpoints(run)] == ["checkpoint-2"]


def test_a_damaged_checkpoint_and_one_of_an_earlier_version_are_named(
    workshop: Workshop, tmp_path: Path
) -> None:
    workshop.run("language-model", output_dir=str(tmp_path), **EVERY_STEP)
    tensors, state = read_checkpoint(tmp_path / "checkpoint-2")
    record = state.pop("record")
    write_checkpoint(tmp_path, 3, tensors, state)
    with pytest.raises(TrainingError, match=r"checkpoint-3 was made by vlv .*; resume the run"):
        exporting.export_run(tmp_path)
    write_checkpoint(tmp_path, 3, {"trainable": {}}, {**state, "record": record})
    with pytest.raises(TrainingError, match="checkpoint-3 is of a model with other parameters"):
        exporting.export_run(tmp_path)
    (tmp_path / "checkpoint-3" / "state.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"state\.json is missing or damaged"):
        exporting.export_run(tmp_path)
