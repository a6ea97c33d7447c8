"""What a set of images and captions is made of, whatever its layout on disk."""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from PIL import Image

from vlv.data.images import load_image
from vlv.errors import DatasetError
from vlv.text import decode_text, parse_json


@dataclass(frozen=True)
class Sample:
    """One encoded image with what is known of it."""

    key: str
    """Unique in the set: its path in a folder, without extension; its name in a shard."""
    image: bytes
    """The image file, still encoded."""
    extension: str
    """Of the image file, with its dot."""
    caption: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    """Whatever else the set says of it; JSON values."""

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
        # `texts` without the caption belong to some other caption.
        if first in texts:
            return texts
        return [first] if first else []

    def picture(self) -> Image.Image:
        """The decoded image, RGB.

        Raises:
            ImageError: it does not decode.
        """
        return load_image(self.image)


def in_shards(samples: Iterable[Sample], size: int) -> Iterator[Iterator[Sample]]:
    """Consecutive runs of `size` samples, the last one shorter; none is held in memory.

    Each run must be used up before the next is asked for.
    """
    remaining = iter(samples)
    for first in remaining:
        yield chain([first], islice(remaining, size - 1))


def caption_line(sample: Sample) -> str:
    """The caption as the one line that a caption file holds.

    Raises:
        DatasetError: there is no caption; trainers fail on empty caption files.
    """
    line = " ".join((sample.caption or "").split())
    if not line:
        raise DatasetError(f"sample {sample.key} has no caption; give it one before writing it")
    return line


def parse_object(text: str | bytes, where: str) -> dict[str, Any]:
    """A JSON object out of a data file.

    Raises:
        DatasetError: it is none; the message starts with `where`.
    """
    value = parse_json(text, where, DatasetError)
    if not isinstance(value, dict):
        raise DatasetError(f"{where} is not a JSON object")
    return value


def parse_caption(value: object, where: str) -> str | None:
    """A caption out of a field of a data file; None where it is missing or empty.

    Raises:
        DatasetError: it is no text.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return value if lines_with_text(value) else None
    raise DatasetError(f"the caption of {where} is no text but {type(value).__name__}")


def parse_text(data: bytes, where: str) -> str:
    """Text out of a data file in any common encoding, without blank ends.

    Raises:
        DatasetError: it is no text that is known.
    """
    try:
        return without_blank_ends(decode_text(data))
    except ValueError as error:
        raise DatasetError(
            f"{where} is not UTF-8 text, nor in another encoding that is known; save it as UTF-8"
        ) from error


def caption_lines(data: bytes) -> list[str]:
    """The captions in the bytes of a caption file: its lines in which anything can be seen.

    Raises:
        ValueError: it is no text that is known; the message says so in a few words.
    """
    return lines_with_text(decode_text(data))


def lines_with_text(text: str) -> list[str]:
    """The lines in which anything can be seen, without blank ends."""
    return [line for line in map(without_blank_ends, text.split("\n")) if line]


def without_blank_ends(text: str) -> str:
    """The text without white space, marks of byte order and other signs of no width at its ends."""
    start, end = 0, len(text)
    while start < end and _is_blank(text[start]):
        start += 1
    while end > start and _is_blank(text[end - 1]):
        end -= 1
    return text[start:end]


def _is_blank(sign: str) -> bool:
    # Control and format characters: what editors, copying and damaged disks leave behind.
    return sign.isspace() or unicodedata.category(sign) in ("Cc", "Cf")
