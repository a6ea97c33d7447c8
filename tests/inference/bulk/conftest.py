"""What is captioned, and one picture that no process survives."""

from pathlib import Path

import pytest
from tests.inference.bulk.jobs import Deadly, scenes


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Scenes in two folders, with names that need care."""
    return scenes(tmp_path / "pictures")


@pytest.fixture
def deadly(tmp_path: Path) -> Deadly:
    """A picture that kills the process of the model."""
    return Deadly(tmp_path / "deadly")
