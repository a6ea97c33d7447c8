"""Files to work on."""

from pathlib import Path

import pytest
from tests.tiny import CAPTIONS, plain, quick_verifier_dir, tiny_model_dir

__all__ = ["quick_verifier_dir", "tiny_model_dir"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with one picture for each colour of `CAPTIONS`, and nothing else."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for color in CAPTIONS:
        plain(color).save(folder / f"{color}.png")
    return folder
