"""A tiny model, and a folder of plain pictures with captions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import plain

# Colour of a picture -> what its caption shall become, of words that the tiny model can write: a
# LoRA leaves the embeddings of words as they are.
NEW = {
    "red": "The light comes from the left. The floor is gray.",
    "blue": "Two green cones stand at the right.",
    "lime": "A red cube stands on a brown floor.",
}
# For a model of 16 numbers a position, and a few seconds.
QUICK = ("--learning-rate", "0.01", "--epochs", "30", "--batch-size", "4", "--validation", "0")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve pictures, four of each colour in other sizes, with captions beside them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        color = list(NEW)[number % 3]
        plain(color, (32, 32 + 4 * number)).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(NEW[color] + "\n")
    return folder


@pytest.fixture
def tuned(vlv: Callable[..., Any], tiny_model_dir: Path, photos: Path, tmp_path: Path) -> Path:
    """A fine-tune of the tiny model that has learned `NEW`."""
    made = vlv("finetune", tiny_model_dir, photos, "--out", tmp_path / "mine", *QUICK)
    assert made.code == 0, made.err
    return tmp_path / "mine"
