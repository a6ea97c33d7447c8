"""Pictures of the embedded world, rendered once into a file that training maps into memory.

Only pixels are kept: a scene is a function of (seed, split), which is cheaper to compute than to
read. The file's name holds a hash of the renderer, so another renderer has other files.
"""

import logging
import os
import platform
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from glob import escape
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from vlv.errors import DatasetError
from vlv.files import awaited_lock, reserve
from vlv.world.render import IMAGE_SIZE, render, renderer_version
from vlv.world.scene import Scene, sample_scene

logger = logging.getLogger(__name__)

_CHUNK = 256
# Scenes are cheap to make, but not in every epoch; this many use about 60 MB.
_KEPT_SCENES = 49152


class WorldImages:
    """The scenes first_seed ... first_seed + count - 1 of a split, with their pictures.

    `images` is (count, 64, 64, 3) uint8, read-only and mapped from `folder`; `workers` processes
    render it on first use.
    """

    def __init__(
        self,
        folder: Path,
        count: int,
        *,
        split: str = "train",
        first_seed: int = 0,
        workers: int = 1,
    ) -> None:
        self.split = split
        self.first_seed = first_seed
        self.path = folder / f"{split}-{first_seed}-{count}-{renderer_version()}.npy"
        with made_once(self.path) as missing:
            if missing:
                _draw(self.path, split, first_seed, count, workers)
        self._map()

    def _map(self) -> None:
        self.images: NDArray[np.uint8] = np.load(self.path, mmap_mode="r")
        self._scenes: dict[int, Scene] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Another process maps the file itself: pickling the array would copy its contents."""
        return {"split": self.split, "first_seed": self.first_seed, "path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    def __len__(self) -> int:
        return len(self.images)

    def scene(self, index: int) -> Scene:
        """The scene that `images[index]` shows; the first ones that are used are kept."""
        scene = self._scenes.get(index)
        if scene is None:
            scene = sample_scene(self.first_seed + index, self.split)
            if len(self._scenes) < _KEPT_SCENES:
                self._scenes[index] = scene
        return scene


@contextmanager
def made_once(path: Path) -> Iterator[bool]:
    """Whether `path` is missing, so that the caller must make it, with `new_array`; other processes
    wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        yield False
        return
    with awaited_lock(path.with_suffix(".lock"), path):
        for left in path.parent.glob(f"{escape(_unfinished(path))}-*.tmp"):
            left.unlink()  # by a process that was killed
        yield not path.exists()


@contextmanager
def new_array(
    path: Path, shape: tuple[int, ...], dtype: DTypeLike, option: str = "data.folder"
) -> Iterator[NDArray[Any]]:
    """An array to fill, which becomes the file `path` when the block ends without an error.

    option: by which a user names the folder.

    Raises:
        DatasetError: the disk is full; nothing of the file is left.
    """
    unfinished = path.with_name(f"{_unfinished(path)}-{os.getpid()}.tmp")
    try:
        with _written(path, option):
            array = np.lib.format.open_memmap(unfinished, mode="w+", dtype=dtype, shape=shape)
            # Writing to a mapped file on a full disk kills the process.
            reserve(unfinished, unfinished.stat().st_size)
        yield array
        with _written(path, option):
            array.flush()
            del array
            os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _unfinished(path: Path) -> str:
    """How the names of unfinished files begin. The number of a process, which follows, is of one
    machine; others may write the same file.
    """
    return f"{path.stem}.{platform.node()}"


@contextmanager
def _written(path: Path, option: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be written ({error.strerror}); free some space, or name another folder "
            f"({option})"
        ) from error


def _draw(path: Path, split: str, first_seed: int, count: int, workers: int) -> None:
    logger.info("rendering %d scenes, once, into %s", count, path)
    starts = range(0, count, _CHUNK)
    jobs = [(split, first_seed + at, min(_CHUNK, count - at)) for at in starts]
    shape = (count, IMAGE_SIZE, IMAGE_SIZE, 3)
    workers = min(workers, len(jobs))
    with new_array(path, shape, np.uint8) as images, ExitStack() as stack:
        chunks: Iterator[NDArray[np.uint8]] = map(_draw_chunk, jobs)
        if workers > 1:
            # Forking a process that runs torch's threads can deadlock; spawning cannot.
            pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
            chunks = stack.enter_context(pool).map(_draw_chunk, jobs)
        for at, chunk in zip(starts, chunks, strict=True):
            images[at : at + len(chunk)] = chunk


def _draw_chunk(job: tuple[str, int, int]) -> NDArray[np.uint8]:
    split, first, count = job
    return np.stack([render(sample_scene(first + i, split)) for i in range(count)])
