"""Files and folders that are complete or absent, whenever the process dies.

Knows nothing of images.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vlv.errors import ConfigError, VLVError
from vlv.unfinished import hidden_folder, hidden_name, remove, remove_left_of

logger = logging.getLogger(__name__)

# Seconds that a process waits for another one without a word.
_SILENT_WAIT = 2.0


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the block ends without an error.

    The data reach the disk before the name does; after an error nothing is left.
    """
    unfinished = hidden_name(path)
    try:
        yield unfinished
        sync(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def atomic_large_file(path: Path) -> Iterator[Path]:
    """As `atomic_file`, for gigabytes, or for a library that puts files of its own beside its file
    and lets only its owner read it. What killed processes left of the same file is removed.
    """
    remove_left_of(path)
    with hidden_folder(path) as folder:
        unfinished = folder / "file"
        with usual_mode(unfinished):
            yield unfinished
        sync(unfinished)
        os.replace(unfinished, path)
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8 as a whole. Names of files in it that are no text keep their bytes
    (`surrogateescape`).
    """
    with atomic_file(path) as unfinished:
        unfinished.write_bytes(text.encode("utf-8", "surrogateescape"))


def write_json(path: Path, data: Any) -> None:
    """Write JSON for people to read too, as `write_text`."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """An empty folder to fill, which becomes `path` when the block ends without an error. What
    killed processes left of the same folder is removed.

    Raises:
        ConfigError: `path` is no folder, or is the current one, or holds something already and
            `overwrite` is not set.
    """
    target = Path(os.path.realpath(path))  # not a link to the folder
    remove_left_of(target)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} exists already and is no folder; choose another name")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise ConfigError(
            f"{path} exists already; choose another name or allow overwriting it (--overwrite)"
        )
    if target == Path.cwd():
        raise ConfigError(
            f"{target} is the current folder, which cannot be replaced; name a new one"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with hidden_folder(target) as unfinished:
        replaced = unfinished.with_suffix(".old")
        try:
            yield unfinished
            sync(unfinished)
            if target.exists():
                target.rename(replaced)
            unfinished.rename(target)
        finally:
            if replaced.exists() and not target.exists():
                replaced.rename(target)
            remove(replaced)
    sync(target.parent)


@contextmanager
def exclusive_lock(path: Path, busy: VLVError, *, patience: float = 0) -> Iterator[None]:
    """Inside, no other process of this machine has the lock at `path`; one that dies releases it.

    Raises:
        VLVError: `busy`, one still has it after `patience` seconds.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=patience)
    except Timeout as error:
        raise busy from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def awaited_lock(path: Path, made: Path) -> Iterator[None]:
    """Inside, no other process of this machine has the lock at `path`; one that dies releases it.
    A wait for the process that has it, and makes `made`, is logged.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_SILENT_WAIT)
    except Timeout:
        logger.warning("waiting for another process, which makes %s", made)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def second_name(source: str | Path, target: str | Path) -> None:
    """Let a file have two names rather than two copies, since weights are large; where the disk has
    no second names, `target`, which must not exist, is a copy.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@contextmanager
def usual_mode(path: Path) -> Iterator[None]:
    """Inside, `path` is written by a library that lets only its owner read it; afterwards it has
    the mode that it had, or that of any new file.
    """
    path.touch()
    mode = path.stat().st_mode
    yield
    path.chmod(mode)


def reserve(path: Path, size: int) -> None:
    """Make a file that exists at least so many bytes long, and take their room on the disk where
    the system can; macOS cannot.
    """
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            if size:
                os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def sync(path: Path) -> None:
    """Wait until a file's data, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
