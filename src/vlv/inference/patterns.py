"""Glob patterns of files, as `glob.glob(..., recursive=True)` reads them, but ending where links
form loops. Knows names only.
"""

import fnmatch
import os
import re
from collections import deque
from collections.abc import Iterator
from glob import has_magic
from pathlib import Path

from vlv.data.images import EXTENSIONS, OTHER_EXTENSIONS
from vlv.data.walking import folder_identity


def matches(pattern: str) -> Iterator[tuple[str, str | None]]:
    """(path, problem) of what matches a pattern, in no order that means anything; of a folder that
    cannot be read, its path with what is wrong with it, as a sentence.

    `**` stands for any folders, linked ones too. Each folder is searched once for each part of the
    pattern, by its name without links if it has one.
    """
    path = Path(pattern)
    parts = path.relative_to(path.anchor).parts if path.anchor else path.parts
    if parts and parts[-1] == "**":
        parts = (*parts, "*")
    seen: set[tuple[int, int, int]] = set()
    # Places: a folder, and the part of the pattern that its entries have to match.
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
