"""The names of a folder's images, and which of them a job captions: one for each caption file."""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from vlv.data.walking import walk
from vlv.inference.bulk.layout import Layout
from vlv.text import printable

# Why an image is not captioned: it has a caption, or would share the caption file of another one.
KEPT, SHARED = "kept", "shared-caption-file"

Entry = list[str]
"""The name of an image and, if it will not be captioned, the reason and a message."""


class ImageNames:
    """The names of a folder's images, in a database on disk: they may exceed the memory."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._names = sqlite3.connect("")
        self._names.execute(
            "CREATE TABLE images (name BLOB PRIMARY KEY, problem, planned DEFAULT 0) WITHOUT ROWID"
        )
        for table in ("captions", "left_captions"):
            self._names.execute(f"CREATE TABLE {table} (name BLOB PRIMARY KEY) WITHOUT ROWID")

    def close(self) -> None:
        """Remove the database."""
        self._names.close()

    def found_any(self) -> bool:
        """Whether the folder holds an image, or a folder that cannot be read."""
        return bool(self._names.execute("SELECT EXISTS (SELECT 1 FROM images)").fetchone()[0])

    def find(self, found: Iterable[tuple[bytes, str | None]]) -> None:
        """Add the images that were found in the folder."""
        self._names.executemany("INSERT OR IGNORE INTO images (name, problem) VALUES (?, ?)", found)

    def changed(self, planned: Iterable[Entry]) -> Iterator[tuple[str, bool]]:
        """The names in a plan that the folder does not hold (False), and those whose caption files
        were others' and are free now (True).
        """
        for name, *refused in planned:
            reason = refused[0] if refused else None
            held = self._names.execute(
                "UPDATE images SET planned = 1 WHERE name = ?", [os.fsencode(name)]
            ).rowcount
            if not held:
                yield name, False
                self._leave(name, reason)
            elif self._is_first(name) and reason == SHARED:
                yield name, True

    def new(self) -> Iterator[Entry]:
        """The entries of images that are not in the plan, in the order of their names."""
        query = "SELECT name, problem FROM images WHERE NOT planned ORDER BY name"
        for raw, problem in self._names.execute(query):
            name = os.fsdecode(raw)
            if problem:
                yield [name, "unreadable", problem]
            elif not self._is_first(name):  # a caption that is there is the other's
                message = f"{printable(name)} would share the caption file of an image before it"
                yield [name, SHARED, message]
            elif self._is_kept(name):
                yield [name, KEPT, f"{printable(name)} has a caption already"]
            else:
                yield [name]

    def _leave(self, name: str, reason: str | None) -> None:
        """Note what becomes of the caption of an image that is gone."""
        caption_of = self._layout.caption_of
        if caption_of is None or reason == SHARED:
            return
        if self._layout.outlives(caption_of(name)):
            self._is_first(name)
        elif reason != KEPT:
            self._add("left_captions", name)

    def _is_kept(self, name: str) -> bool:
        """Whether an image has a caption that must stay. What the job wrote for one that is gone
        belongs to no other image.
        """
        if self._layout.caption_of is None:
            return False
        path = self._layout.caption_of(name)
        query = "SELECT EXISTS (SELECT 1 FROM left_captions WHERE name = ?)"
        is_left = self._names.execute(query, [os.fsencode(path)]).fetchone()[0]
        return not is_left and self._layout.is_kept(path)

    def _is_first(self, name: str) -> bool:
        """Whether no earlier image has the same caption file."""
        return self._layout.caption_of is None or self._add("captions", name)

    def _add(self, table: str, name: str) -> bool:
        """Note the caption file of an image; False where it was noted before."""
        assert self._layout.caption_of is not None  # its callers ask
        file = os.fsencode(self._layout.caption_of(name))
        return self._names.execute(f"INSERT OR IGNORE INTO {table} VALUES (?)", [file]).rowcount > 0


def found_in(root: Path, leave_out: Path | None) -> Iterator[tuple[bytes, str | None]]:
    """(name in the folder, problem) of images, and of folders that cannot be read."""
    for path, problem in walk(root, leave_out=leave_out):
        name = PurePosixPath(os.path.relpath(path, root)).as_posix()
        yield os.fsencode(name), printable(problem) if problem else None
