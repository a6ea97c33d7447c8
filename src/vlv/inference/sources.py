"""Which images a command was given: files as they are named, folders searched for images.

Knows names only; opens no image.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vlv.data.images import EXTENSIONS


@dataclass(frozen=True)
class Refused:
    """An input that gave no result: its name, a short reason to count by, and a sentence."""

    name: str
    reason: str
    message: str


@dataclass
class Found:
    """Images in the order to work on them, each once, and folders that could not be read."""

    images: list[Path] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


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
            if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        ]
