"""The images below a folder, and the files that match a glob pattern.

Linked folders are followed, each folder once, so that loops of links end. What cannot be read is
reported, never skipped in silence. Opens no file.
"""

import fnmatch
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from glob import has_magic
from pathlib import Path

from vlv.data.images import EXTENSIONS, OTHER_EXTENSIONS

Identity = tuple[int, int]
"""Device and inode of a folder: the same for all of its names."""


def walk(
    root: str | os.PathLike[str],
    *,
    recursive: bool = True,
    leave_out: str | os.PathLike[str] | None = None,
    extensions: Sequence[str] = (*EXTENSIONS, *OTHER_EXTENSIONS),
) -> Iterator[tuple[str, str | None]]:
    """Yield (path, None) for each image in a folder, and (path, problem) for each folder or link
    that cannot be read, where problem is a sentence.

    Paths begin with `root` as it is written. Every folder is searched once; if it has several
    names, the one without links is used. Images of a folder come in the order of their names,
    before those of its subfolders. Hidden files and folders are skipped.

    Args:
        root: the folder.
        recursive: whether subfolders and linked folders are searched.
        leave_out: a folder that is not searched, whichever name leads to it.
        extensions: the endings of the names of images, in lower case.
    """
    seen: set[Identity] = set()
    folders, links = [os.fspath(root)], deque[str]()
    while folders or links:
        # Linked folders come last: they may lie below the root as well.
        folder = folders.pop() if folders else links.popleft()
        try:
            here = folder_identity(folder)
            if here in seen:
                continue
            if leave_out is not None and not seen:
                seen.update(_identity_if_there(leave_out) - {here})
            seen.add(here)
            with os.scandir(folder) as found:
                images, below, linked, broken = _sorted_out(found, tuple(extensions))
        except OSError as error:
            yield folder, f"the folder {folder} cannot be read ({error.strerror})"
            continue
        for name in images:
            path = os.path.join(folder, name)
            if name in broken:
                yield path, f"the link {path} leads nowhere; mend or remove it"
            else:
                yield path, None
        if not recursive:
            return
        links += linked
        folders += reversed(below)


def _sorted_out(
    found: Iterable["os.DirEntry[str]"], extensions: tuple[str, ...]
) -> tuple[list[str], list[str], list[str], set[str]]:
    """(names of images and of links that lead nowhere, folders, linked folders, names of these
    links), in order. Keeps only names of images: a folder may hold millions.
    """
    images: list[str] = []
    below: list[str] = []
    linked: list[str] = []
    broken: set[str] = set()
    for entry in found:
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            (linked if entry.is_symlink() else below).append(entry.path)
        elif entry.name.lower().endswith(extensions):
            images.append(entry.name)
        elif entry.is_symlink() and not os.path.exists(entry.path):
            images.append(entry.name)
            broken.add(entry.name)
    return sorted(images), sorted(below), sorted(linked), broken


def matches(pattern: str) -> Iterator[tuple[str, str | None]]:
    """Yield (path, None) for each match of a glob pattern, in any order, and (path, problem) for
    each folder that cannot be read.

    Patterns are read as `glob.glob(..., recursive=True)` reads them, but loops of links end. `**`
    stands for any number of folders, linked ones too. Each folder is searched once for each part
    of the pattern, under its name without links if it has one.
    """
    path = Path(pattern)
    parts = path.relative_to(path.anchor).parts if path.anchor else path.parts
    if parts and parts[-1] == "**":
        parts = (*parts, "*")
    seen: set[tuple[int, int, int]] = set()
    # A place is a folder and the number of the part of the pattern that its entries have to match.
    places, links = [(path.anchor, 0)], deque[tuple[str, int]]()
    while places or links:
        folder, number = places.pop() if places else links.popleft()
        part, last = parts[number], number == len(parts) - 1
        if not has_magic(part):
            inside = os.path.join(folder, part)
            if last and os.path.lexists(inside):
                yield inside, None
            elif not last and os.path.isdir(inside):
                places.append((inside, number + 1))
            continue
        try:
            place = (*folder_identity(folder or "."), number)
            if place in seen:
                continue
            seen.add(place)
            with os.scandir(folder or ".") as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            yield folder, f"the folder {folder} cannot be read ({error.strerror})"
            continue
        if part == "**":
            places.append((folder, number + 1))
        below: list[tuple[str, int]] = []
        fits = re.compile(fnmatch.translate("*" if part == "**" else part)).match
        for entry in entries:
            if not fits(entry.name) or (entry.name[0] == "." and part[0] != "."):
                continue
            inside = os.path.join(folder, entry.name)
            if last:
                yield inside, None
            elif os.path.isdir(inside):
                next_place = inside, number + (part != "**")
                (links if entry.is_symlink() else below).append(next_place)
            elif entry.is_symlink() and not os.path.exists(inside) and not _is_image(inside):
                yield inside, f"the link {inside} leads nowhere; mend or remove it"
        places += reversed(below)


def _is_image(name: str) -> bool:
    return name.lower().endswith((*EXTENSIONS, *OTHER_EXTENSIONS))


def folder_identity(folder: str | os.PathLike[str]) -> Identity:
    """The identity of a folder. Raises OSError if the folder cannot be inspected."""
    state = os.stat(folder)
    return state.st_dev, state.st_ino


def _identity_if_there(folder: str | os.PathLike[str]) -> set[Identity]:
    return {folder_identity(folder)} if os.path.isdir(folder) else set()


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False
