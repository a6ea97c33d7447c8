"""Runs, configs and commands with names of earlier versions go on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file
from tests.training.conftest import Workshop

from vlv.errors import ConfigError
from vlv.files import sha256_of
from vlv.training.checkpoint import list_checkpoints
from vlv.training.config import check_config, differing_fields
from vlv.training.old_names import FIELDS, PARAMETERS
from vlv.training.self_training import SelfTrainingConfig
from vlv.training.stages.stage2 import Stage2Config

FIELDS_OF_STAGE2 = {
    "output_dir": "out",
    "max_train_steps": 1,
    "train_batch_size": 1,
    "learning_rate": 0.1,
    "stage1": "m",
}


def by_old_names(config: dict[str, Any]) -> dict[str, Any]:
    old = {new: name for name, new in FIELDS.items()}
    return {old.get(name, name): value for name, value in config.items()}


def renamed_back(folder: Path) -> None:
    """Give a checkpoint the names that an earlier version wrote."""
    old = {new: name for name, new in PARAMETERS.items()}
    manifest = json.loads((folder / "manifest.json").read_text())
    # Of the best weights until a checkpoint, those versions kept none.
    (folder / "best.safetensors").unlink(missing_ok=True)
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        names = {name: name for name in tensors}
        for new, before in old.items():
            names |= {n: before + n.removeprefix(new) for n in names if n.startswith(new)}
        assert path.stem != "trainable" or any(n != before for n, before in names.items())
        save_file({names[name]: value for name, value in tensors.items()}, path)
    state = json.loads((folder / "state.json").read_text())
    state.pop("best", None)
    state["config"] = by_old_names(state["config"])
    (folder / "state.json").write_text(json.dumps(state))
    for name in manifest:
        manifest[name] = sha256_of(folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("stage", ["stage2", "language-model", "text-to-image"])
def test_a_checkpoint_with_old_names_goes_on_to_the_same(
    workshop: Workshop, tmp_path: Path, stage: str
) -> None:
    def run(name: str, steps: int) -> Path:
        changes: dict[str, Any] = {"use_ema": True, "validation_picture": False}
        if stage == "stage2":
            decoder = str(workshop.root / "s2" / "final" / "caption_decoder")
            changes |= {"caption_decoder": decoder, "language_model": None}
            changes |= {"keep_best": "caption_loss", "validation_steps": 1}
        folder = tmp_path / name
        workshop.run(
            stage,
            output_dir=str(folder),
            max_train_steps=steps,
            lr_scheduler="constant",
            **changes,
        )
        return folder

    whole = run("whole", 1)
    shutil.copytree(whole, tmp_path / "old")
    (checkpoint,) = list_checkpoints(tmp_path / "old")
    renamed_back(checkpoint)
    best = tmp_path / "old" / "best.safetensors"
    if best.exists():
        tensors = load_file(best)
        kept = {
            name.replace("caption_decoder.", "captioner.", 1): tensors[name] for name in tensors
        }
        save_file(kept, best, {"step": "1", "value": "0.0"})
        for other in (whole, whole / checkpoint.name):
            shutil.copy2(best, other / "best.safetensors")
    expected, other = run("whole", 2), run("old", 2)
    for path in (expected / "final").rglob("*.safetensors"):
        mine, theirs = (load_file(at / path.relative_to(expected)) for at in (expected, other))
        assert all(mine[name].equal(theirs[name]) for name in mine), path


def test_fields_of_configs_keep_their_old_names() -> None:
    old = {**FIELDS_OF_STAGE2, "captioner": "c", "lesson": "l.jsonl"}
    config = check_config(Stage2Config, old, "here")
    assert (config.caption_decoder, config.pseudo_captions) == (Path("c"), Path("l.jsonl"))
    # As the checkpoint of a run of that time holds it.
    saved = by_old_names(config.model_dump(mode="json"))
    assert saved["captioner"] == "c" and "caption_decoder" not in saved
    assert differing_fields(saved, config) == []
    assert differing_fields(saved | {"lesson": "other"}, config) == ["pseudo_captions"]
    with pytest.raises(ConfigError, match="captioner is the old name of caption_decoder"):
        check_config(Stage2Config, {**old, "caption_decoder": "d"}, "here")


def test_a_self_training_run_of_an_earlier_version_goes_on(
    vlv: Callable[..., Any], workshop: Workshop, tmp_path: Path
) -> None:
    fields = {
        "output_dir": str(tmp_path / "run"),
        "start": str(workshop.root / "s2" / "final"),
        "data": {"folder": str(workshop.root / "world"), "count": 32, "workers": 1},
        "pairs": 2,
        "rounds": 1,
        "images": 3,
        "samples": 2,
        "choose": "random",
        "num_threads": 1,
        "stage2": {
            "max_train_steps": 1,
            "train_batch_size": 2,
            "learning_rate": 1.0e-4,
            "validation_count": 1,
            "max_tokens": 4,
            "validation_picture": False,
        },
    }
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(fields))
    done = vlv("train", "self-teach", "--config", config)
    assert done.code == 0, done.err
    assert "vlv: self-teach is deprecated, use self-training" in done.err
    # As a process of an earlier version left it before it trained: the file and the config by
    # their old names.
    captions = tmp_path / "run" / "pseudo-captions-1.jsonl"
    before = captions.read_bytes()
    captions.rename(tmp_path / "run" / "lesson-1.jsonl")
    shutil.rmtree(tmp_path / "run" / "round-1")
    shutil.rmtree(tmp_path / "run" / "final")
    saved = tmp_path / "run" / "config.json"
    saved.write_text(saved.read_text().replace('"selector"', '"choose"'))
    again = vlv("train", "self-training", "--config", config)
    assert again.code == 0, again.err
    assert (tmp_path / "run" / "lesson-1.jsonl").read_bytes() == before
    assert not captions.exists()
    loaded = SelfTrainingConfig(**fields)
    assert loaded.selector == "random"
