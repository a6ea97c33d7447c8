"""Captions on disk as trainers of image generators read them: files beside images, and new sets.

Existing captions are not made again: a caller asks `keeps` first, so that a rerun does what is
left. Captions that somebody wrote or edited by hand are replaced only on request; see
`vlv.inference.written`.
"""

import os
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Protocol

from vlv.data.folder import METADATA
from vlv.data.images import EXTENSIONS, extension_of
from vlv.data.samples import Sample
from vlv.data.sets import holds_only, write_set
from vlv.errors import ConfigError
from vlv.files import atomic_file, atomic_folder, sync
from vlv.inference.records import ImageInput
from vlv.inference.written import FolderRecords, Replace, may_replace, text_of


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


def check_new_set(folder: Path, format: str, *, overwrite: bool) -> None:
    """Raise ConfigError where `write_captions` would have to replace what it must not."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder for the set")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise ConfigError(f"{folder} exists already; choose another name or give --overwrite")
    if not holds_only(folder, format):
        raise ConfigError(
            f"{folder} holds something else than a {format} set, which --overwrite would remove; "
            "choose another name"
        )


def write_captions(
    captioned: Iterable[tuple[ImageInput, list[str]]], folder: Path, format: str, *, overwrite: bool
) -> int:
    """Write images and captions, the best caption first; `folder` is complete or absent.

    Returns how many there are; if there are none, nothing is written. The fields of a sample are
    those it had, `file_name` (what it was read from) and, where there are several captions,
    `texts`.
    """
    samples = (_sample(number, *one) for number, one in enumerate(captioned))
    first = next(samples, None)
    if first is None:
        return 0
    with atomic_folder(folder, overwrite=overwrite) as unfinished:
        return write_set(chain([first], samples), unfinished, format=format)


def _sample(number: int, image: ImageInput, texts: list[str]) -> Sample:
    data = image.data()
    meta = {**image.meta, "file_name": str(image.path)}
    if len(texts) > 1:
        meta["texts"] = texts
    suffix = image.path.suffix.lower()
    extension = suffix if suffix in EXTENSIONS else extension_of(data)
    # Numbers as img2dataset gives them: a key of a shard may hold no dot.
    return Sample(f"{number:09d}", data, extension, texts[0], meta)
