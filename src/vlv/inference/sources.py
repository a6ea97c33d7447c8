"""Which images a command was given: files as they are named, folders searched for images, patterns
and lists of names, and sets of images.

Knows names only; opens no image.
"""

import glob
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vlv.data.images import EXTENSIONS, OTHER_EXTENSIONS
from vlv.data.sets import set_files
from vlv.errors import ConfigError, DatasetError

# A name that stands for standard input.
STANDARD_INPUT = Path("-")
# Files that hold many images.
_SETS = (".tar", ".parquet")


@dataclass(frozen=True)
class Refused:
    """An input that gave no result: its name, a short reason to count by, and a sentence."""

    name: str
    reason: str
    message: str


@dataclass
class Found:
    """Images in the order to work on them, each once, and folders that could not be read; after the
    images come those in the shards and tables of `sets`.
    """

    images: list[Path] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    sets: list[Path] = field(default_factory=list)


def find_images(paths: Iterable[Path], *, recursive: bool = False) -> Found:
    """The images that `paths` stand for.

    A file is taken whatever its name, even one that does not exist: reading it gives the reason.
    Of a folder, the files with an image's extension are taken in the order of their names, those
    of its subfolders only if `recursive`. Hidden files and folders are left out.
    """
    found = Found()
    for path in paths:
        # Unlike `Path.is_dir`, false of names that are too long or may not be looked at.
        if os.path.isdir(path):
            _search(path, recursive, found)
        else:
            found.images.append(path)
    found.images = list(dict.fromkeys(found.images))
    return found


def find_inputs(
    paths: Sequence[Path],
    *,
    patterns: Sequence[str] = (),
    filelist: Path | None = None,
    recursive: bool = False,
) -> Found:
    """`find_images`, also of glob patterns, of a list of names, and of sets of images.

    A shard (.tar), a parquet file, and a folder that holds such files and no image are sets. The
    path - is an image on standard input, and as a filelist the names there. Patterns find images
    and sets only.

    Raises:
        ConfigError: standard input stands for two things.
        DatasetError: the filelist cannot be read, or a pattern matches nothing.
    """
    if list(paths).count(STANDARD_INPUT) + (filelist == STANDARD_INPUT) > 1:
        raise ConfigError("standard input can be read only once, but - is given more than once")
    every = [*paths, *(match for pattern in patterns for match in _matches(pattern))]
    if filelist is not None:
        every += _listed(filelist)
    files, sets = [], []
    for path in every:
        here = _set_files(path)
        sets += here
        files += [] if here else [path]
    found = find_images(files, recursive=recursive)
    found.sets = list(dict.fromkeys(sets))
    return found


def _matches(pattern: str) -> list[Path]:
    known = (*EXTENSIONS, *OTHER_EXTENSIONS, *_SETS)
    names = sorted(glob.glob(pattern, recursive=True))
    matches = [Path(name) for name in names if name.lower().endswith(known)]
    if not matches:
        raise DatasetError(f"no image matches {pattern!r}; quote the pattern, ** means subfolders")
    return matches


def _listed(filelist: Path) -> list[Path]:
    """Names one a line, or separated by NUL as `find -print0` writes them."""
    try:
        standard = filelist == STANDARD_INPUT
        data = sys.stdin.buffer.read() if standard else filelist.read_bytes()
    except OSError as error:
        raise DatasetError(f"the file list {filelist} cannot be read ({error.strerror})") from error
    names = data.split(b"\0") if b"\0" in data else data.splitlines()
    return [Path(os.fsdecode(name)) for name in names if name.strip()]


def _set_files(path: Path) -> list[Path]:
    """The shards or tables that a path stands for; none if it stands for images."""
    if not os.path.isdir(path):
        return [path] if path.suffix.lower() in _SETS else []
    try:
        return set_files(path)
    except OSError:
        return []  # searching it for images gives the reason


def shared_stems(images: Iterable[Path]) -> dict[Path, list[Path]]:
    """Images whose captions would lie in the same file: path without suffix -> the images."""
    by_stem: dict[Path, list[Path]] = {}
    for image in images:
        by_stem.setdefault(image.with_suffix(""), []).append(image)
    return {stem: several for stem, several in by_stem.items() if len(several) > 1}


def _search(folder: Path, recursive: bool, found: Found) -> None:
    def refuse(error: OSError) -> None:
        name = str(error.filename or folder)
        message = f"the folder {name} cannot be read ({error.strerror})"
        found.refused.append(Refused(name, "unreadable", message))

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        found.images += [
            Path(parent, name)
            for name in sorted(files)
            if name.lower().endswith((*EXTENSIONS, *OTHER_EXTENSIONS)) and name[0] != "."
        ]
