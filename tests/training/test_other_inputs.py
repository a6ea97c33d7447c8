"""A run goes on only with the models and the captions that it began with."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tests.training.conftest import Workshop
from tests.training.image_folders import write_images
from tests.training.written import as_of_an_earlier_version

from vlv.errors import TrainingError
from vlv.training.exporting import export_run

ONE_STEP = {"max_train_steps": 1}


@pytest.fixture
def models(workshop: Workshop, tmp_path: Path) -> Path:
    """Copies of the models of the workshop, which a test may change."""
    for name in ("t2i", "s1", "lm", "s2"):
        shutil.copytree(workshop.root / name / "final", tmp_path / "models" / name)
    return tmp_path / "models"


def change(weights: Path) -> None:
    save_file({name: value + 1 for name, value in load_file(weights).items()}, weights)


def fields_of(stage: str, models: Path) -> dict[str, Any]:
    if stage == "stage1":
        return {"decoder": str(models / "t2i"), "initial_model": str(models / "s1")}
    return {
        "stage1": str(models / "s1"),
        "encoder": str(models / "s2"),
        "language_model": str(models / "lm" / "language_model"),
    }


@pytest.mark.parametrize(
    ("stage", "field", "weights"),
    [
        ("stage1", "decoder", "t2i/unet/diffusion_pytorch_model.safetensors"),
        ("stage1", "initial_model", "s1/encoder/vlv_head.safetensors"),
        ("stage2", "stage1", "s1/text_tower/model.safetensors"),
        ("stage2", "encoder", "s2/encoder/model.safetensors"),
        ("stage2", "language_model", "lm/language_model/model.safetensors"),
    ],
)
def test_a_run_does_not_go_on_with_a_changed_model(
    workshop: Workshop, models: Path, tmp_path: Path, stage: str, field: str, weights: str
) -> None:
    fields = fields_of(stage, models) | {"output_dir": str(tmp_path / "run")}
    workshop.run(stage, **fields, **ONE_STEP)
    change(models / weights)
    with pytest.raises(TrainingError, match=f"other weights than {field} names now: those in "):
        workshop.run(stage, **fields)
    with pytest.raises(TrainingError, match=str(fields[field])):
        export_run(tmp_path / "run")
    as_of_an_earlier_version(tmp_path / "run" / "checkpoint-1", "starts")
    workshop.run(stage, **fields)


def test_what_is_not_read_of_a_model_does_not_count(
    workshop: Workshop, models: Path, tmp_path: Path
) -> None:
    """The encoder of stage 1 where another one is named, and the caption decoder of a model."""
    fields = fields_of("stage2", models) | {"output_dir": str(tmp_path / "run")}
    workshop.run("stage2", **fields, **ONE_STEP)
    change(models / "s1" / "encoder" / "vlv_head.safetensors")
    change(models / "s2" / "caption_decoder" / "psi.safetensors")
    workshop.run("stage2", **fields)


def test_a_model_may_be_moved(workshop: Workshop, models: Path, tmp_path: Path) -> None:
    """From the folder of a component into a whole model too."""
    changes: dict[str, Any] = {"output_dir": str(tmp_path / "run"), "language_model": None}
    named = models / "s2" / "caption_decoder"
    first = {**changes, "stage1": str(models / "s1"), "caption_decoder": str(named)}
    workshop.run("stage2", **first, **ONE_STEP)
    models.rename(tmp_path / "moved")
    changes["stage1"] = str(tmp_path / "moved" / "s1")
    workshop.run("stage2", **changes, caption_decoder=str(tmp_path / "moved" / "s2"))
    with pytest.raises(TrainingError, match="other values of stage1"):
        other = {**changes, "stage1": str(tmp_path / "moved" / "s2")}
        change(tmp_path / "moved" / "s2" / "unet" / "diffusion_pytorch_model.safetensors")
        workshop.run("stage2", **other, caption_decoder=str(tmp_path / "moved" / "s2"))


def captioned_run(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """Images with caption files, and the fields of a run on them."""
    folder = write_images(tmp_path / "set", "folder")
    return folder, {
        "data": {"set": str(folder), "index_folder": str(tmp_path / "indexes")},
        "validation_count": 4,
        "output_dir": str(tmp_path / "run"),
    }


def test_a_run_does_not_go_on_with_other_captions(workshop: Workshop, tmp_path: Path) -> None:
    folder, fields = captioned_run(tmp_path)
    workshop.run("stage2", **fields, **ONE_STEP)
    fields["data"]["set"] = str(folder.rename(tmp_path / "moved"))
    workshop.run("stage2", **fields)
    sidecar = tmp_path / "moved" / "00000.txt"
    sidecar.write_text(sidecar.read_text().replace("number", "NUMBER"))
    with pytest.raises(TrainingError, match="checkpoint-2 was made with other captions than data"):
        workshop.run("stage2", **fields, max_train_steps=3)
    checkpoint = tmp_path / "run" / "checkpoint-2"
    as_of_an_earlier_version(checkpoint, "captions_fingerprint")
    workshop.run("stage2", **fields, max_train_steps=3)
    newest = json.loads((tmp_path / "run" / "checkpoint-3" / "state.json").read_text())
    assert newest["captions_fingerprint"] is not None


def test_stage_1_goes_on_whatever_the_captions(workshop: Workshop, tmp_path: Path) -> None:
    folder, fields = captioned_run(tmp_path)
    fields |= {"decoder": None, "initial_model": str(workshop.root / "s1" / "final")}
    workshop.run("stage1", **fields, **ONE_STEP)
    (folder / "00000.txt").write_text("Another caption.")
    workshop.run("stage1", **fields)
