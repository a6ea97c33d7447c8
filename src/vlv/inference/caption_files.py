"""Captions on disk as trainers of image generators read them. Knows text and file names only.

What is there is not written again: a caller asks `keeps` first, so that a rerun does what is left.
What somebody wrote or edited by hand is replaced only where that is asked for, see
`vlv.inference.written`.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from vlv.data.images import EXTENSIONS
from vlv.errors import ConfigError
from vlv.files import atomic_file, sync
from vlv.inference.written import FolderRecords, Replace, may_replace, text_of

METADATA = "metadata.jsonl"


class CaptionStore(Protocol):
    """A place for captions, where some may be already."""

    def has(self, image: Path) -> bool:
        """Whether the image has a caption here."""

    def keeps(self, image: Path) -> bool:
        """Whether the image has a caption here that is to stay."""

    def put(self, image: Path, caption: str, *others: str) -> bool:
        """Write the image's caption, and others of the same image; they are on the disk then. False
        where it has one by now that is to stay.
        """

    def close(self) -> list[Path]:
        """Nothing more will be put. The images that kept a caption after all, although `put` said
        otherwise: somebody wrote it in between.
        """


class _StaysError(Exception):
    """There is a caption by now that is to stay."""


class Sidecars:
    """`<stem>.txt` beside each image: UTF-8, a non-empty line for each caption, the best first.

    Trainers that read one caption take the first line; sd-scripts with `enable_wildcard` takes any.
    """

    def __init__(self, extension: str = ".txt", replace: Replace = Replace.NONE) -> None:
        if len(extension) < 2 or not extension.startswith(".") or "/" in extension:
            raise ConfigError(
                f"a caption extension begins with a dot, such as .txt, not {extension!r}"
            )
        if extension.lower() in EXTENSIONS:
            raise ConfigError(
                f"captions cannot be written to {extension} files, which are images; "
                "use .txt or .caption"
            )
        self.extension = extension
        self._replace = replace
        self._records = FolderRecords()

    def path(self, image: Path) -> Path:
        """Where the image's caption lies."""
        return image.with_suffix(self.extension)

    def has(self, image: Path) -> bool:
        """Whether the file holds a text; trainers refuse empty ones."""
        return holds_text(self.path(image))

    def keeps(self, image: Path) -> bool:
        """Whether the file holds a text that is to stay."""
        path = self.path(image)
        return not may_replace(path, self._replace, self._records.of(path.parent))

    def put(self, image: Path, caption: str, *others: str) -> bool:
        """Write the file, which is complete or absent, if it does not hold a text that is to stay:
        somebody may have written one since `keeps` was asked.
        """
        path = self.path(image)
        text = "".join(f"{one}\n" for one in (caption, *others))
        record = self._records.of(path.parent)
        try:
            with atomic_file(path) as unfinished:
                unfinished.write_text(text, encoding="utf-8", newline="\n")
                sync(unfinished)  # which takes a while
                if not may_replace(path, self._replace, record):
                    raise _StaysError
                record.note([(path.name, text)])
        except _StaysError:
            return False
        return True

    def close(self) -> list[Path]:
        """Every file is closed already."""
        self._records.compact()
        return []


def holds_text(path: Path) -> bool:
    """Whether a file is there and holds more than blanks and marks that cannot be seen. One that
    cannot be read as text does: somebody's caption in an encoding of their own.
    """
    return text_of(path) != ""


def metadata_path(inputs: Iterable[Path]) -> Path:
    """`metadata.jsonl` in the one folder that the inputs are or lie in.

    Raises:
        ConfigError: they are in several folders, or there are none.
    """
    folders = {path if os.path.isdir(path) else path.parent for path in inputs}
    if len(folders) != 1:
        raise ConfigError(
            f"the images are in {len(folders)} folders; say which file to write with --output"
        )
    return folders.pop() / METADATA
