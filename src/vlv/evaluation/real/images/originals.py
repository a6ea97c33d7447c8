"""The real images of a set: their names, the captions that they came with, and their pictures.

Knows no drawn picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from PIL import Image

from vlv.data.captioned import distinct_samples, open_captioned
from vlv.data.image_sets import ImageSet
from vlv.data.teacher.captioning import image_hash
from vlv.errors import ConfigError, DatasetError
from vlv.evaluation.real.captions_file import CaptionLine, captions_for, read_captions
from vlv.evaluation.results import Progress
from vlv.text import printable

HUMAN = "human captions"


@dataclass
class Originals:
    """Images of a set, in its order. captions: of each the first one that it has, if any. hashes:
    of the files.

    refused: images that cannot be read, each with the reason.
    """

    images: ImageSet
    numbers: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def picture(self, at: int) -> Image.Image:
        """The decoded image.

        Raises:
            ImageError: it does not decode.
            DatasetError: it is not there any more.
        """
        return self.images[self.numbers[at]].picture()

    def only(self, kept: Sequence[int]) -> "Originals":
        """Some of the images."""
        return Originals(
            self.images,
            [self.numbers[at] for at in kept],
            [self.names[at] for at in kept],
            [self.captions[at] for at in kept],
            [self.hashes[at] for at in kept],
            self.refused,
        )


def read_originals(
    path: Path, index_folder: Path, limit: int | None, progress: Progress
) -> Originals:
    """The first `limit` images of a set; they are not decoded.

    Raises:
        DatasetError: nothing readable is there.
    """
    images = open_captioned(path, index_folder=index_folder)
    found = Originals(images)
    total = len(images) if limit is None else min(limit, len(images))
    numbers = progress(range(total), total=total, unit="image", description="images")
    for number, sample in distinct_samples(images, numbers, found.refused):
        texts = sample.texts
        found.numbers.append(number)
        found.names.append(sample.file_name)
        found.captions.append(" ".join(texts[0].split()) if texts else None)
        found.hashes.append(image_hash(sample))
    if not found.names:
        reason = next(iter(found.refused.values()))
        raise DatasetError(f"no image of {printable(path)} can be read: {reason}")
    return found


@dataclass(frozen=True)
class CaptionedImages:
    """Images with a caption by every captioner. texts: captioner -> the captions of all images.

    missing: captioner -> images that it has no caption for, which are left out.
    """

    originals: Originals
    texts: dict[str, list[str]]
    missing: dict[str, list[str]]


def with_captions(
    originals: Originals, files: Mapping[str, Path], *, human: bool
) -> CaptionedImages:
    """The images that every captioner has a caption for. human: with the set's own captions, where
    it has any.

    Raises:
        ConfigError: there is no captioner at all.
        DatasetError: a captions file cannot be read, or no image has a caption by everyone.
    """
    texts: dict[str, list[str | None]] = {}
    if human and any(originals.captions):
        texts[HUMAN] = originals.captions
    for name, file in files.items():
        texts[name] = _found(read_captions(file), originals)
    if not texts:
        raise ConfigError(
            "the set has no captions of its own, and no captions file is named; name one with "
            "--captions NAME=FILE"
        )
    kept = [at for at in range(len(originals)) if all(captions[at] for captions in texts.values())]
    missing = {
        name: [originals.names[at] for at, text in enumerate(captions) if not text]
        for name, captions in texts.items()
    }
    if not kept:
        first = next(iter(files.values()), None)
        there = f"; {printable(first)} has other names" if first else ""
        raise DatasetError(
            f"no image of the set has a caption by each of {', '.join(map(printable, texts))}: the "
            f"set has {printable(originals.names[0])}{there}"
        )
    return CaptionedImages(
        originals.only(kept),
        {name: [str(captions[at]) for at in kept] for name, captions in texts.items()},
        {name: names for name, names in missing.items() if names},
    )


def _found(lines: Mapping[str, CaptionLine], originals: Originals) -> list[str | None]:
    """As `captions_for`; a captions file may name an image with folders that the set's names lack,
    as one of COCO's root has them.
    """
    images = list(zip(originals.names, originals.hashes, strict=True))
    texts = captions_for(lines, images)
    if all(text is not None for text in texts):
        return texts
    others = captions_for(lines, images, lambda name: PurePosixPath(name).name)
    return [other if text is None else text for text, other in zip(texts, others, strict=True)]
