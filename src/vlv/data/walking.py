"""Files below a folder: linked folders are followed, each folder once, and nothing is passed over
without a word. Knows names only.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence

from vlv.data.images import EXTENSIONS, OTHER_EXTENSIONS

Identity = tuple[int, int]
"""Device and inode of a folder: the same by whichever name it is reached."""


def walk(
    root: str | os.PathLike[str],
    *,
    recursive: bool = True,
    leave_out: str | os.PathLike[str] | None = None,
    extensions: Sequence[str] = (*EXTENSIONS, *OTHER_EXTENSIONS),
) -> Iterator[tuple[str, str | None]]:
    """(path, problem) of the images in a folder; of a folder or a link that cannot be read, its
    path with what is wrong with it, as a sentence.

    Paths begin with `root` as it is written. Every folder is searched once: loops of links end, and
    of several names the one without links is taken. Images in a folder come in the order of their
    names, before those of its subfolders. Hidden files and folders are left out.

    Args:
        root: the folder.
        recursive: whether subfolders are searched, and what links to folders lead to.
        leave_out: a folder that is not searched, by whichever name it is reached.
        extensions: what the names of images end in, in lower case.
    """
    seen: set[Identity] = set()
    folders, links = [os.fspath(root)], deque[str]()
    while folders or links:
        # What links lead to comes last, since it may lie below the root as well.
        folder = folders.pop() if folders else links.popleft()
        try:
            here = folder_identity(folder)
            if here in seen:
                continue
            if leave_out is not None and not seen:
                seen.update(_identity_if_there(leave_out) - {here})
            seen.add(here)
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            yield folder, f"the folder {folder} cannot be read ({error.strerror})"
            continue
        below: list[str] = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                (links if entry.is_symlink() else below).append(entry.path)
            elif entry.name.lower().endswith(tuple(extensions)):
                yield entry.path, None
            elif entry.is_symlink() and not os.path.exists(entry.path):
                yield entry.path, f"the link {entry.path} leads nowhere; mend or remove it"
        if not recursive:
            return
        folders += reversed(below)


def folder_identity(folder: str | os.PathLike[str]) -> Identity:
    """What tells a folder from others. Raises OSError where it cannot be looked at."""
    state = os.stat(folder)
    return state.st_dev, state.st_ino


def _identity_if_there(folder: str | os.PathLike[str]) -> set[Identity]:
    return {folder_identity(folder)} if os.path.isdir(folder) else set()


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False
