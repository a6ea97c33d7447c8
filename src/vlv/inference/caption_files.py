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

from vlv.data.folder import caption_file
from vlv.data.folder_metadata import METADATA
from vlv.data.images import EXTENSIONS, extension_of
from vlv.data.samples import Sample
from vlv.data.sets import holds_only, write_set
from vlv.errors import ConfigError
from vlv.files import atomic_file, atomic_folder, sync
from vlv.inference.records import ImageInput
from vlv.inference.written import FolderRecords, Replace, may_replace, text_of
from vlv.text import as_text


class CaptionStore(Protocol):
    """A place for captions; it may hold some already."""

    def has(self, image: Path) -> bool:
        """Whether the image has a caption here."""

    def keeps(self, image: Path) -> bool:
        """Whether the image has a caption here that must stay."""

    def put(self, image: Path, caption: str, *others: str) -> bool:
        """Write the image's captions to the disk. False if it has a caption by now that must stay,
        and then nothing is written.
        """

    def close(self) -> list[Path]:
        """Finish writing. Returns the images that kept another caption although `put` returned
        True, because somebody wrote it in between.
        """


class _StaysError(Exception):
    """There is a caption by now that must stay."""


class Sidecars:
    """`<stem>.txt` beside each image: UTF-8, one line for each caption, the best first.

    Trainers that read one caption use the first line; sd-scripts with `enable_wildcard` draw a
    line. Where there is no `.txt`, a `.caption` is the image's caption file: a new `.txt` would go
    before it.
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
        """The path of the image's caption file."""
        return image.with_suffix(self.extension)

    def found(self, image: Path) -> Path:
        """The path of the caption file that readers find; where there is none, of a new one."""
        return caption_file(image, self.extension)

    def has(self, image: Path) -> bool:
        """Whether the file holds text; trainers refuse empty files."""
        return holds_text(self.found(image))

    def keeps(self, image: Path) -> bool:
        """Whether the file holds text that must stay."""
        path = self.found(image)
        return not may_replace(path, self._replace, self._records.of(path.parent))

    def put(self, image: Path, caption: str, *others: str) -> bool:
        """Write the file, which is complete or absent, unless it holds text that must stay:
        somebody may have written it since `keeps` was asked.
        """
        path = self.path(image)
        text = "".join(f"{one}\n" for one in (caption, *others))
        record = self._records.of(path.parent)
        try:
            with atomic_file(path) as unfinished:
                unfinished.write_text(text, encoding="utf-8", newline="\n")
                sync(unfinished)  # takes a while, so the question comes after it
                if self.keeps(image):
                    raise _StaysError
                record.note([(path.name, text)])
        except _StaysError:
            return False
        return True

    def close(self) -> list[Path]:
        """Nothing is left to write."""
        self._records.compact()
        return []


def holds_text(path: Path) -> bool:
    """Whether a file exists and holds visible text. A file that cannot be read as text counts: it
    is somebody's caption in an unknown encoding.
    """
    return text_of(path) != ""


def metadata_path(inputs: Iterable[Path]) -> Path:
    """`metadata.jsonl` in the one folder of all inputs.

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
    """Raise ConfigError if `write_captions` would replace something that must stay."""
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

    Returns the number of images; if there are none, nothing is written. A sample keeps its fields
    and gets `file_name` (where it was read from) and, if there are several captions, `texts`.
    Raises ImageError for an image whose file cannot be read.
    """
    samples = (_sample(number, *one) for number, one in enumerate(captioned))
    first = next(samples, None)
    if first is None:
        return 0
    with atomic_folder(folder, overwrite=overwrite) as unfinished:
        return write_set(chain([first], samples), unfinished, format=format)


def _sample(number: int, image: ImageInput, texts: list[str]) -> Sample:
    data = image.data()
    meta = {**image.meta, "file_name": as_text(str(image.path))}
    if len(texts) > 1:
        meta["texts"] = texts
    suffix = image.path.suffix.lower()
    extension = suffix if suffix in EXTENSIONS else extension_of(data)
    # Numbers, as img2dataset writes them: a key in a shard must not contain a dot.
    return Sample(f"{number:09d}", data, extension, texts[0], meta)
