"""The images of an arena, each with a caption of every captioner, and the order they are shown in.

The order is a function of a seed, the image and the captioner alone, so that it is the same in
every run, and no captioner has the same place everywhere.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vlv.data.images import MAX_OWN_PIXELS, load_image
from vlv.data.lenient import Unusable
from vlv.data.teacher.captioning import image_hash
from vlv.data.teacher.sets import dataset_items
from vlv.endpoints.endpoint import jpeg_for
from vlv.errors import DatasetError
from vlv.evaluation.real.captions_file import (
    captions_for,
    named_files,
    read_captions,
    without_caption,
)
from vlv.text import printable


@dataclass(frozen=True)
class ArenaImage:
    """One image. captions: captioner -> text, in the order in which they are shown.

    hash: of the file. jpeg: the picture as it is sent; may raise ImageError.
    """

    name: str
    hash: str
    file: bytes
    captions: Mapping[str, str]

    def jpeg(self, max_side: int) -> bytes:
        """The picture as it is sent or shown, no larger than `max_side` pixels.

        Raises:
            ImageError: it does not decode.
        """
        return jpeg_for(load_image(self.file, max_pixels=MAX_OWN_PIXELS), max_side)


@dataclass
class Arena:
    """The images of a set that have a caption of every captioner."""

    source: Path
    captions: Mapping[str, Mapping[str, str]]
    limit: int | None = None
    seed: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    """Images that some captioner lacks, or that are damaged: name -> why. Of the last pass."""
    undescribed: int = 0
    """Images that no captioner describes, which are no part of the arena. Of the last pass."""

    @property
    def captioners(self) -> list[str]:
        """In the order of the command."""
        return list(self.captions)

    def images(self) -> Iterator[ArenaImage]:
        """The images, in the order of the set.

        Raises:
            DatasetError: the set cannot be read, or there is none.
        """
        self.left_out, self.undescribed = {}, 0
        count = 0
        for name, sample in dataset_items(self.source):
            if count == self.limit:
                return
            if isinstance(sample, Unusable):
                self.left_out[name] = sample.message
                continue
            texts = {one: captions.get(name, "") for one, captions in self.captions.items()}
            if not any(texts.values()):
                self.undescribed += 1
                continue
            if missing := [one for one, text in texts.items() if not text]:
                self.left_out[name] = without_caption(name, missing)
                continue
            count += 1
            order = sorted(texts, key=lambda one: draw(self.seed, name, one))
            yield ArenaImage(
                name, image_hash(sample), sample.image, {one: texts[one] for one in order}
            )
        if not count:
            raise DatasetError(
                f"no image of {printable(self.source)} has a caption of every captioner; "
                "`file_name` in a captions file is the path of the image in the set"
            )


def draw(*parts: object) -> str:
    """A number that looks random and depends on these parts alone, as text to sort by."""
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogateescape")).hexdigest()


def set_images(source: Path) -> dict[str, str | None]:
    """The names of all images of a set, with the hashes of those that can be read."""
    return {
        name: None if isinstance(sample, Unusable) else image_hash(sample)
        for name, sample in dataset_items(source)
    }


def read_captioners(
    files: list[str], images: Mapping[str, str | None]
) -> dict[str, dict[str, str]]:
    """Captioner -> image -> caption, of --captions NAME=FILE; images: those of `set_images`.

    Raises:
        ConfigError: two captioners have one name.
    """
    found: dict[str, dict[str, str]] = {}
    for name, file in named_files(files, "--captions").items():
        texts = captions_for(read_captions(file), images.items())
        found[name] = {one: text for one, text in zip(images, texts, strict=True) if text}
    return found
