"""A sample of a set of images and captions, in any layout on disk, and its texts."""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from PIL import Image

from vlv.data.images import load_image
from vlv.errors import DatasetError, ImageError
from vlv.text import decode_text, parse_json, printable


@dataclass(frozen=True)
class Sample:
    """One encoded image with its caption and other data."""

    key: str
    """Unique in the set: its path in a folder, without extension; its name in a shard."""
    image: bytes
    """The image file, still encoded."""
    extension: str
    """Of the image file, with its dot."""
    caption: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    """Its other fields in the set; JSON values."""
    caption_problem: str | None = None
    """Of a sample that `vlv.data.lenient` reads: why the caption that is there cannot be read, in a
    sentence.
    """

    @property
    def file_name(self) -> str:
        """Key and extension."""
        return self.key + self.extension

    @property
    def texts(self) -> list[str]:
        """All captions, without blanks at their ends; `caption` is one of them. Empty if there is
        no caption.
        """
        first = (self.caption or "").strip()
        several = self.meta.get("texts")
        if not isinstance(several, list) or not all(isinstance(one, str) for one in several):
            several = []
        texts = [text.strip() for text in several if text.strip()]
        # `texts` without the caption belong to some other caption. Writers change blanks in it.
        if first.split() in [text.split() for text in texts]:
            return texts
        return [first] if first else []

    def picture(self) -> Image.Image:
        """The decoded image, RGB.

        Raises:
            ImageError: it does not decode; the message names it.
        """
        try:
            return load_image(self.image)
        except ImageError as error:
            raise error.named(printable(self.file_name)) from error


def in_shards(samples: Iterable[Sample], size: int) -> Iterator[Iterator[Sample]]:
    """Consecutive groups of `size` samples; the last may be shorter. No group is held in memory, so
    each must be used up before the next one.
    """
    remaining = iter(samples)
    for first in remaining:
        yield chain([first], islice(remaining, size - 1))


def caption_line(sample: Sample) -> str:
    """The caption on one line, for a caption file.

    Raises:
        DatasetError: there is no caption; trainers fail on empty caption files.
    """
    line = " ".join((sample.caption or "").split())
    if not line:
        raise DatasetError(f"sample {sample.key} has no caption; give it one before writing it")
    return line


def parse_object(text: str | bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object in a data file.

    Raises:
        DatasetError: it is not a JSON object; the message begins with `where`.
    """
    value = parse_json(text, where, DatasetError)
    if not isinstance(value, dict):
        raise DatasetError(f"{where} is not a JSON object")
    return value


def parse_caption(value: object, where: str) -> str | None:
    """The caption in a field of a data file; None if it is missing or empty.

    Raises:
        DatasetError: it is not text.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return value if lines_with_text(value) else None
    raise DatasetError(f"the caption of {where} is no text but {type(value).__name__}")


def one_of_several(value: object) -> tuple[object, dict[str, Any]]:
    """The caption in a cell of a table, and meta data with the `texts` of a cell that is a list of
    several captions, as in Flickr30k.
    """
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        return value, {}
    texts = [one for one in value if lines_with_text(one)]
    return (texts[0] if texts else None), ({"texts": texts} if len(texts) > 1 else {})


def parse_text(data: bytes, where: str) -> str:
    """The text of a data file in any common encoding, without blanks at its ends.

    Raises:
        DatasetError: it is not text in a known encoding.
    """
    try:
        return without_blank_ends(decode_text(data))
    except ValueError as error:
        raise DatasetError(
            f"{where} is not UTF-8 text, nor in another encoding that is known; save it as UTF-8"
        ) from error


def caption_lines(data: bytes) -> list[str]:
    """The captions in the bytes of a caption file: its lines with visible text.

    Raises:
        ValueError: it is not text in a known encoding; the message says so in a few words.
    """
    return lines_with_text(decode_text(data))


def lines_with_text(text: str) -> list[str]:
    """The lines with visible text, without blanks at their ends."""
    return [line for line in map(without_blank_ends, text.split("\n")) if line]


def without_blank_ends(text: str) -> str:
    """The text without white space, byte order marks and other invisible characters at its ends."""
    start, end = 0, len(text)
    while start < end and _is_blank(text[start]):
        start += 1
    while end > start and _is_blank(text[end - 1]):
        end -= 1
    return text[start:end]


def _is_blank(character: str) -> bool:
    # Control and format characters come from editors, copied text and damaged disks.
    return character.isspace() or unicodedata.category(character) in ("Cc", "Cf")
