"""The captioned pictures of a fine-tune: which there are, what their captions are, and which are
held out. Knows sets of pictures; knows no model.
"""

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from vlv.data.captioned import open_captioned
from vlv.data.image_sets import ImageSet
from vlv.data.remote.locations import shown_name
from vlv.errors import DatasetError, ImageError
from vlv.text import begun_with, printable
from vlv.training.finetuning.config import held_out_count
from vlv.training.samples.data_order import key

T = TypeVar("T")
# Shows how far some work is: items, their number, and what is done with them.
Watch = Callable[[Iterable[T], int, str], Iterable[T]]

# The end of a sentence, or the comma between two tags.
_SENTENCE, _TAG = re.compile(r"(?<=[.!?。])\s+"), re.compile(r"(?<=,)\s+")


@dataclass(frozen=True)
class CaptionedPicture:
    """A picture of the set and its captions; `content` is a hash of its file."""

    number: int
    name: str
    captions: tuple[str, ...]
    content: str


@dataclass
class Pictures:
    """The pictures that have captions, in the order of the set, and those that were left out:
    `without` a caption, and `refused` with the reason.
    """

    images: ImageSet
    good: list[CaptionedPicture] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def picture(self, one: CaptionedPicture) -> Image.Image:
        """One of them, decoded."""
        return self.images[one.number].picture()

    def split(
        self, validation: str, seed: int
    ) -> tuple[list[CaptionedPicture], list[CaptionedPicture]]:
        """Those to learn from and those that are held out, drawn by the seed."""
        count = held_out_count(validation, len(self.good))
        drawn = np.random.default_rng(key(seed, "held-out")).permutation(len(self.good))
        held = {int(number) for number in drawn[:count]}
        learned = [one for number, one in enumerate(self.good) if number not in held]
        return learned, [self.good[number] for number in sorted(held)]

    @property
    def fingerprint(self) -> str:
        """Changes when a picture or a caption does."""
        parts = (part for one in self.good for part in (one.name, one.content, *one.captions))
        return digest("\0".join(parts).encode("utf-8", "surrogateescape"))


def digest(data: bytes) -> str:
    """A short hash."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def look_over(
    path: Path,
    index_folder: Path,
    *,
    first_line: bool,
    trigger: str,
    watch: Watch[Any],
) -> Pictures:
    """Read and decode every picture of a set once; `watch` may show how far it is.

    Raises:
        DatasetError: there is no picture, or none has a caption, or none decodes.
    """
    images = open_captioned(path, index_folder=index_folder)
    found = Pictures(images)
    for number in watch(range(len(images)), len(images), "looking"):
        _look_at(found, number, first_line, trigger)
    where = printable(shown_name(path))
    if not found.good and found.without:
        raise DatasetError(
            f"none of the {len(images)} pictures in {where} has a caption; put a text file beside "
            f"each ({printable(found.without[0])} has no .txt), or give a metadata.jsonl or a JSON "
            "of captions"
        )
    if not found.good:
        raise DatasetError(f"no picture in {where} can be read: {found.refused[0]}")
    return found


def _look_at(found: Pictures, number: int, first_line: bool, trigger: str) -> None:
    try:
        sample = found.images[number]
        texts = sample.texts[:1] if first_line else sample.texts
        if not texts:
            found.without.append(sample.file_name)
            return
        sample.picture()
    except (DatasetError, ImageError) as error:
        found.refused.append(str(error))
        return
    captions = tuple(begun_with(trigger, " ".join(text.split())) for text in texts)
    found.good.append(CaptionedPicture(number, sample.file_name, captions, digest(sample.image)))


def thinned(caption: str, share: float, random: np.random.Generator) -> str:
    """The caption without some of its sentences, or of its tags where it is one sentence: each but
    the first is left out with probability `share`.
    """
    pieces = _SENTENCE.split(caption)
    if len(pieces) == 1:
        pieces = _TAG.split(caption)
    kept = [pieces[0], *(one for one in pieces[1:] if random.random() >= share)]
    return " ".join(kept).rstrip(",") if len(kept) < len(pieces) else caption


def all_captions(pictures: Iterable[CaptionedPicture]) -> list[str]:
    """All captions."""
    return [caption for one in pictures for caption in one.captions]
