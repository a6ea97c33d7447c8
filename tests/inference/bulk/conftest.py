"""What is captioned, and one picture that no process survives."""

from pathlib import Path

import pytest
from tests.inference.bulk.jobs import COUNT, Deadly

from vlv.data.folder import write_folder
from vlv.data.world_sets import world_samples


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Scenes in two folders, with names that need care."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    write_folder(world_samples(COUNT, seed=3), folder)
    for file in folder.glob("*.txt"):
        file.unlink()
    (folder / "metadata.jsonl").unlink()
    (folder / "a b").mkdir()
    for number, file in enumerate(sorted(folder.glob("*.png"))[: COUNT // 2]):
        file.rename(folder / "a b" / f"ä {number}.png")
    return folder


@pytest.fixture
def deadly(tmp_path: Path) -> Deadly:
    """A picture that kills the process of the model."""
    return Deadly(tmp_path / "deadly")
