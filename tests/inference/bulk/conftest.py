"""What is captioned, and one picture that no process survives."""

import multiprocessing.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import launcher
from tests.inference.bulk.jobs import Deadly, scenes


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Scenes in two folders, with names that need care."""
    return scenes(tmp_path / "pictures")


@pytest.fixture
def deadly(tmp_path: Path) -> Deadly:
    """A picture that kills the process of the model."""
    return Deadly(tmp_path / "deadly")


@pytest.fixture(autouse=True, scope="session")
def warm_workers() -> Iterator[None]:
    """Workers of jobs in this process, too, are forked from the launcher."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing.util, "spawnv_passfds", launcher.spawnv_passfds)
        yield
