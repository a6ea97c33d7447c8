"""A full disk costs what was being written; one sentence reports it, and nothing older is lost."""

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.training.conftest import Workshop

from vlv.data.sets import write_set
from vlv.data.world_images import new_array
from vlv.data.world_sets import world_samples
from vlv.errors import DatasetError
from vlv.training.checkpoint import list_checkpoints, read_checkpoint
from vlv.training.latent_caching import CachePlan

ROOM = 2_000_000


@dataclass
class SmallDisk:
    """A file system of 2 MB; where mounting is not allowed, a folder for files that are limited."""

    folder: Path
    mounted: bool

    @property
    def reason(self) -> str:
        return "No space left on device" if self.mounted else "File too large"

    @contextmanager
    def room(self, left: int) -> Iterator[None]:
        """Inside, so much can be written."""
        if not self.mounted:
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (left, hard))
            try:
                yield
            finally:  # or all later tests of this process would fail as well
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            return
        filler = self.folder / "filler"
        with pytest.raises(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        os.truncate(filler, filler.stat().st_size - left)
        yield
        filler.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    yield SmallDisk(folder, mounted)
    if mounted:
        # Lazily: this process may still have a file of it mapped.
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


def test_a_checkpoint_for_which_there_is_no_room(
    vlv: Callable[..., Any], workshop: Workshop, small_disk: SmallDisk
) -> None:
    run = small_disk.folder / "run"
    config = workshop.config("language-model", output_dir=str(run), max_train_steps=1)
    assert vlv("train", "language-model", "--config", config).code == 0
    with small_disk.room(24_000):
        refused = vlv("train", "language-model", "--config", config, "max_train_steps=2")
    assert refused.code == 1
    last = refused.err.strip().splitlines()[-1]
    assert last.startswith(f"vlv: {run / 'checkpoint-2'} cannot be written (")
    assert small_disk.reason in last and "start the same command again" in last
    assert "Traceback" not in refused.err
    assert [folder.name for folder in list_checkpoints(run)] == ["checkpoint-1"]
    read_checkpoint(run / "checkpoint-1")
    assert not list(run.glob(".unfinished*"))
    assert vlv("train", "language-model", "--config", config, "max_train_steps=2").code == 0


def test_latents_for_which_there_is_no_room(
    vlv: Callable[..., Any], tiny_model_dir: Path, small_disk: SmallDisk, tmp_path: Path
) -> None:
    write_set(world_samples(64), tmp_path / "set", format="webdataset")
    out = small_disk.folder / "latents"
    words = ["data", "latents", tmp_path / "set", "--out", out, "--model", tiny_model_dir]
    words += ["--index-folder", tmp_path / "indexes", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch, small_disk.room(24_000):
        patch.setattr(CachePlan, "bytes_free", ROOM)  # another process takes it meanwhile
        refused = vlv(*words)
    assert refused.code == 1
    last = refused.err.splitlines()[-1]
    assert f"cannot be written ({small_disk.reason})" in last
    assert "name another folder (--out)" in last


def test_an_error_of_something_else_is_not_one_of_writing(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError), new_array(tmp_path / "a.npy", (4,), np.uint8):
        raise TimeoutError
    assert not list(tmp_path.iterdir())


def test_pictures_for_which_there_is_no_room(small_disk: SmallDisk) -> None:
    """Writing into a mapped file on a full disk would kill the process."""
    path = small_disk.folder / "scenes.npy"
    with (
        small_disk.room(ROOM // 2),
        pytest.raises(DatasetError, match=rf"scenes\.npy cannot be written \({small_disk.reason}"),
        new_array(path, (ROOM,), np.uint8) as array,
    ):
        array[:] = 1
    assert not list(small_disk.folder.iterdir())
    with new_array(path, (ROOM // 4,), np.uint8) as array:
        array[:] = 1
    assert (np.load(path) == 1).all()
