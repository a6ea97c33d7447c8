"""A run that cannot be: missing captions, a wrong model, too little memory. One sentence each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.cli.conftest import tiny_model_dir
from tests.training.image_folders import write_images
from tests.training.test_loop_duties import Numbers, OneNumber

from vlv.checkpoints.opening import load_model, save_model
from vlv.errors import TrainingError
from vlv.training.config import TrainingConfig
from vlv.training.loop import train
from vlv.training.samples.source import Batch
from vlv.training.stage import Stage

__all__ = ["tiny_model_dir"]


@pytest.fixture
def start(vlv: Callable[..., Any], tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Exit code and last line of `vlv train` of a stage with some fields, on images without
    captions.
    """
    images = write_images(tmp_path / "set", "folder")
    for text in [*images.glob("*.txt"), images / "metadata.jsonl"]:
        text.unlink(missing_ok=True)

    def run(stage: str, **fields: Any) -> Any:
        common = {
            "output_dir": str(tmp_path / "run"),
            "data": {"set": str(images)},
            "validation_count": 4,
            "max_train_steps": 1,
            "train_batch_size": 2,
            "learning_rate": 1.0e-5,
            "report_to": "none",
        }
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump({**common, **fields}))
        outcome = vlv("train", stage, "--config", config)
        assert not (tmp_path / "run" / "final").exists()
        return outcome.code, outcome.err.splitlines()[-1]

    return run


def test_missing_captions(start: Callable[..., Any], tiny_model_dir: Path) -> None:
    model = str(tiny_model_dir)
    code, sentence = start("stage2", stage1=model, caption_decoder=model)
    assert code == 1
    assert "none of the 4 held-out images is usable (the last one: " in sentence
    assert "has no caption); repair the set" in sentence


def test_a_model_that_is_none(start: Callable[..., Any], tmp_path: Path) -> None:
    code, sentence = start("stage1", initial_model="nowhere")
    assert code == 3
    assert sentence.startswith("vlv: initial_model: There is no folder 'nowhere', ")
    assert sentence.endswith("`vlv assemble` writes an untrained model out of published ones.")
    code, sentence = start("stage1", initial_model=str(tmp_path / "set"))
    assert code == 3
    assert "is not a VLV model: it holds no vlv.json" in sentence


def test_a_model_that_lacks_what_the_stage_needs(
    start: Callable[..., Any], tiny_model_dir: Path, tmp_path: Path
) -> None:
    captioner = tmp_path / "captioner"
    save_model(
        load_model(tiny_model_dir),
        captioner,
        components=["encoder", "text_tower", "caption_decoder"],
    )
    code, sentence = start("stage1", initial_model=str(captioner))
    assert code == 3
    assert "captioner has no vae; it holds encoder" in sentence
    code, sentence = start("stage2", stage1=str(captioner), caption_decoder=str(captioner))
    assert code == 2
    assert "has no diffusion decoder; set denoising_weight: 0" in sentence


def test_pictures_of_another_size_than_the_model_s(
    start: Callable[..., Any], tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Before any scene is drawn."""
    model, world = str(tiny_model_dir), {"folder": str(tmp_path / "world")}
    for stage, fields in (
        ("stage1", {"initial_model": model}),
        ("stage2", {"stage1": model, "caption_decoder": model}),
    ):
        code, sentence = start(stage, **fields, data=world)
        assert code == 2
        assert "64 px, and the pictures of this model are 32 px; name images with" in sentence
    assert not (tmp_path / "world").exists()


def test_boxes_of_models_that_do_not_fit(start: Callable[..., Any], tiny_model_dir: Path) -> None:
    tiny, mini = str(tiny_model_dir), "vlv-mini"
    for fields in (
        {"initial_model": tiny, "decoder": mini},
        {"initial_model": mini, "decoder": tiny},
    ):
        code, sentence = start("stage1", **fields)
        assert code == 2 and "embeddings of width 1" in sentence
        assert "name an encoder that was trained with a text-to-image model of" in sentence
    for fields in ({"encoder": tiny, "caption_decoder": mini}, {"caption_decoder": tiny}):
        code, sentence = start("stage2", stage1=mini, **fields)
        assert code == 2 and "name a" in sentence and "that was trained with" in sentence


class Insatiable(OneNumber):
    def forward(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return torch.empty(2**50).sum() + self.w.sum(), {}


def test_too_little_memory(tmp_path: Path) -> None:
    """An allocation that really fails."""
    config = TrainingConfig(
        output_dir=tmp_path,
        max_train_steps=1,
        train_batch_size=4,
        learning_rate=0.1,
        report_to="none",
    )
    message = r"huge: the memory does not suffice for batches of 4 \(.*\); lower train_batch_size"
    with pytest.raises(TrainingError, match=message) as stop:
        train(Stage("huge", config, Insatiable(), Numbers()))
    assert "\n" not in str(stop.value)
