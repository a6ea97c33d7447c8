"""Reads and writes sets of images and captions in one of three layouts.

A set is named by a path, or by a URL of an object store, which may be a `Path` too; shards and
tables also by a pattern of either (`vlv.data.remote.locations`).
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from vlv.data.folder import read_folder, write_folder
from vlv.data.images import EXTENSIONS
from vlv.data.remote.locations import (
    SetFile,
    expanded,
    is_pattern,
    local_path,
    on_disk,
    shown_name,
    suffix_of,
    url_of,
)
from vlv.data.samples import Sample
from vlv.data.shards import SHARD_SIZE, read_shards, write_shards
from vlv.data.tables import read_tables, write_tables
from vlv.errors import ConfigError, DatasetError

FORMATS = ("folder", "webdataset", "parquet")
# Files that hold many images. Shards come first: img2dataset puts a table beside each shard.
_SUFFIXES = {".tar": "webdataset", ".parquet": "parquet"}
# The names of files that `write_set` writes.
_WRITTEN = {"webdataset": r"\d{5,}(\.tar|_stats\.json)", "parquet": r"\d{5,}\.parquet"}


def write_set(
    samples: Iterable[Sample], folder: Path, *, format: str, shard_size: int = SHARD_SIZE
) -> int:
    """Write samples into `folder` in one of `FORMATS`; returns their number.

    shard_size: the most samples in one file; the format `folder` ignores it.

    Raises:
        ConfigError: unknown format, or what it needs is not installed.
        DatasetError: a sample cannot be written in this format.
    """
    check_format(format)
    folder.mkdir(parents=True, exist_ok=True)
    if format == "folder":
        return write_folder(samples, folder)
    write = write_shards if format == "webdataset" else write_tables
    return write(samples, folder, shard_size=shard_size)


def read_set(path: Path, *, format: str | None = None) -> Iterator[Sample]:
    """The samples of a set.

    Args:
        path: a folder, or one shard (`.tar`), or one parquet file, or a pattern of these files.
        format: one of `FORMATS`; None is the format of the files at `path`.

    Raises:
        ConfigError: unknown format, or what it needs is not installed.
        DatasetError: nothing readable is there, or it is damaged.
    """
    format = format or detect_format(path)
    check_format(format)
    if format == "folder":
        return read_folder(folder_of(path))
    read = read_shards if format == "webdataset" else read_tables
    return _one_by_one(read, files_of(path, format))


def _one_by_one(
    read: Callable[[Iterable[Path]], Iterator[Sample]], files: Iterable[SetFile]
) -> Iterator[Sample]:
    for file in files:
        with on_disk(file) as path:
            yield from read([path])


def detect_format(path: Path) -> str:
    """The format of the set at `path`.

    Raises:
        DatasetError: there is nothing, or a file that is not a set.
    """
    if url_of(path) is not None or is_pattern(path):
        if (suffix := suffix_of(path)) not in _SUFFIXES:
            found = {file.suffix for file in expanded(path, tuple(_SUFFIXES))}
            suffix = next((known for known in _SUFFIXES if known in found), suffix)
        if suffix not in _SUFFIXES:
            raise DatasetError(
                f"{shown_name(path)} stands for no .tar shards and no .parquet files"
            )
        return _SUFFIXES[suffix]
    path = local_path(path)
    if path.is_dir():
        files = set_files(path)
        return _SUFFIXES[files[0].suffix] if files else "folder"
    if not path.is_file() or path.suffix not in _SUFFIXES:
        raise DatasetError(f"{path} is no folder, no .tar shard and no .parquet file")
    return _SUFFIXES[path.suffix]


def files_of(path: Path, format: str) -> list[SetFile]:
    """The shards or tables at `path`, in order: the file itself, or those of a folder, or of a
    pattern.

    Raises:
        DatasetError: there are none.
    """
    suffix = next(suffix for suffix, known in _SUFFIXES.items() if known == format)
    return expanded(path, (suffix,))


def folder_of(path: Path) -> Path:
    """The folder of images that a set's name is. Raises DatasetError for one in a store."""
    if url_of(path) is not None:
        raise DatasetError(
            f"{shown_name(path)} is in an object store, where images are read from .tar shards and "
            "parquet files alone; write them with img2dataset or vlv"
        )
    return local_path(path)


def set_files(folder: Path) -> list[Path]:
    """The shards or tables of a folder; none if it also holds images.

    Raises:
        OSError: the folder cannot be read.
    """
    found: dict[str, list[Path]] = {suffix: [] for suffix in _SUFFIXES}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            # The first image is enough: there may be millions.
            if entry.name.lower().endswith(EXTENSIONS):
                return []
            suffix = os.path.splitext(entry.name)[1]
            if suffix in found:
                found[suffix].append(folder / entry.name)
    return next((sorted(files) for files in found.values() if files), [])


def holds_only(folder: Path, format: str) -> bool:
    """Whether a folder holds only files that `write_set` writes in this format, not `folder`."""
    return all(re.fullmatch(_WRITTEN[format], path.name) for path in folder.iterdir())


def remove_shards(folder: Path, format: str, first: int) -> None:
    """Remove the shards or tables from number `first` on, of a larger set that `write_set` wrote
    here before.
    """
    for path in folder.iterdir():
        is_written = re.fullmatch(_WRITTEN[format], path.name)
        if is_written and int(re.split(r"\D", path.name)[0]) >= first:
            path.unlink()


def check_format(format: str) -> None:
    """Raise ConfigError for an unknown format."""
    if format not in FORMATS:
        raise ConfigError(f"unknown format {format!r}; the formats are {', '.join(FORMATS)}")
