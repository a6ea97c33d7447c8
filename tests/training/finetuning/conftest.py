"""A tiny model, and a folder of plain pictures with captions."""

import shutil
from functools import partial
from pathlib import Path

import pytest
from tests.shared import shared_folder
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
    return write_photos(tmp_path / "photos")


def write_photos(folder: Path) -> Path:
    folder.mkdir()
    for number in range(12):
        color = list(NEW)[number % 3]
        plain(color, (32, 32 + 4 * number)).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(NEW[color] + "\n")
    return folder


@pytest.fixture
def tuned(tiny_model_dir: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tune of the tiny model that has learned `NEW` from `photos`."""
    made = shared_folder(tmp_path_factory, "tuned", partial(tune, tiny_model_dir))
    return Path(shutil.copytree(made / "mine", tmp_path / "mine"))


def tune(model: Path, folder: Path) -> None:
    from vlv.cli.app import main

    photos = write_photos(folder / "photos")
    with pytest.raises(SystemExit, match="0"):
        main(["finetune", str(model), str(photos), "--out", str(folder / "mine"), *QUICK])
