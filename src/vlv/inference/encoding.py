"""Images -> caption embeddings z, batch by batch; a bad image costs itself alone.

Shapes: B batch, Q queries, d width of z.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vlv.data.images import load_image
from vlv.errors import ImageError
from vlv.inference.batching import Batches, BatchSize
from vlv.inference.sources import Refused
from vlv.models.vlv import VLV


@dataclass(frozen=True)
class Source:
    """An image to work on: the name it goes by, and its file or the bytes of one."""

    name: str
    image: Path | bytes

    @classmethod
    def of_file(cls, path: Path) -> "Source":
        """A file under its own path."""
        return cls(str(path), path)


@dataclass(frozen=True)
class Encoded:
    """An image's caption embeddings z (Q,d), on the model's device."""

    name: str
    z: Tensor


def encode_images(
    model: VLV, sources: Iterable[Source], *, batch_size: BatchSize = 8
) -> Iterator[Encoded | Refused]:
    """One result for each source, in order, as soon as its batch is done.

    An image that cannot be decoded is refused with its reason and stops no other.
    """
    batches = Batches(batch_size)
    for batch in batches.of(sources):
        # Each picture shrinks to the encoder's size before the next is decoded: a batch of
        # large photographs never lies in memory at full size.
        pixels = [_pixels(model, source) for source in batch]
        good = [one for one in pixels if isinstance(one, Tensor)]
        z = iter(batches.run(lambda part: _encode(model, part), good))
        for source, one in zip(batch, pixels, strict=True):
            yield one if isinstance(one, Refused) else Encoded(source.name, next(z))


def _encode(model: VLV, pixels: list[Tensor]) -> Tensor:
    encoder = model.encoder  # taken here: what loads in inference mode can never be trained
    with torch.inference_mode():
        z: Tensor = encoder(torch.cat(pixels))
    return z.clone()  # an ordinary tensor again, which callers may train on


def _pixels(model: VLV, source: Source) -> Tensor | Refused:
    try:
        image = load_image(source.image)
    except ImageError as error:
        return Refused(source.name, error.reason, str(error))
    return model.encoder.preprocess([image])
