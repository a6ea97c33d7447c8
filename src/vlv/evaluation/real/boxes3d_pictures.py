"""What `vlv eval boxes3d` asks about: images of a set, and the pictures that models draw of them
from their caption embeddings.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from vlv.evaluation.real.images.drawing import read_picture
from vlv.evaluation.real.images.measured import Looker, named_reasons
from vlv.evaluation.real.images.originals import Originals, read_originals
from vlv.evaluation.real.images.reconstructing import (
    ReconstructionSettings,
    open_models,
    reconstruct,
)
from vlv.evaluation.results import Progress
from vlv.files import sha256_of
from vlv.models.preprocessing import square_crop

PICTURES, INDEX = "pictures", "index"


@dataclass(frozen=True)
class DrawnSet:
    """Pictures by one model. files: image of the set -> its picture. side: in pixels."""

    name: str
    files: Mapping[str, Path]
    side: int
    about: Mapping[str, Any]

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Image of the set -> SHA-256 of its picture."""
        return {image: sha256_of(file) for image, file in self.files.items()}

    def picture(self, image: str) -> Image.Image:
        """The picture of an image of the set.

        Raises:
            ImageError: it does not decode.
        """
        return read_picture(self.files[image])


@dataclass(frozen=True)
class ComparedPictures:
    """Images that decode, and the pictures of all models. left_out: a sentence for each image that
    does not decode.
    """

    originals: Originals
    drawn: Sequence[DrawnSet]
    left_out: Mapping[str, str]

    def images(self) -> Iterator[tuple[int, str]]:
        """The number and the name of each image."""
        return enumerate(self.originals.names)

    def original(self, at: int, side: int) -> Image.Image:
        """An image as the decoder's autoencoder sees it, so that it shows what its picture shows.

        Raises:
            ImageError: it does not decode.
        """
        return square_crop(self.originals.picture(at), side)


def draw_compared(
    source: Path,
    out: Path,
    models: Mapping[str, str],
    settings: ReconstructionSettings,
    limit: int | None,
    progress: Progress,
) -> ComparedPictures:
    """Draw what `out` lacks, at the first scale and seed. models: id or folder by name.

    Raises:
        ConfigError: the folder holds pictures of another model, or drawn otherwise.
        DatasetError: the set cannot be read, no image decodes, or another process draws.
        CheckpointError: a model cannot be opened, or cannot draw.
    """
    opened = open_models(models, settings)
    originals = read_originals(source, out / INDEX, limit, progress)
    kept, _, lost = Looker(out, settings.batch_size, progress).originals(originals, [])
    scale, names = settings.guidance[0], [originals.names[at] for at in kept]
    drawn = []
    for name, model in models.items():
        # Popped, so that the weights of one model at a time are in memory.
        found = reconstruct(
            out / PICTURES, name, opened.pop(name), originals, kept, settings, progress
        )
        about = {"model": model, "guidance": scale, "seed": settings.seeds[0], **found.about}
        files = dict(zip(names, found.pictures[name, scale][0], strict=True))
        drawn.append(DrawnSet(name, files, found.side, about))
    return ComparedPictures(
        originals.only(kept), drawn, named_reasons({**originals.refused, **lost})
    )
