"""Images -> caption embeddings z, batch by batch; a bad image costs itself alone.

Shapes: B batch, Q queries, d width of z.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vlv.data.images import MAX_OWN_PIXELS, load_image
from vlv.errors import ImageError
from vlv.inference.batching import Batches, BatchSize
from vlv.inference.sources import Refused
from vlv.models.config import EncoderSettings
from vlv.models.preprocessing import encoder_pixels
from vlv.models.vlv import VLVModel

T = TypeVar("T")
Pixels = NDArray[np.uint8]
# Pixels of a side, of the encoder's images.
_SMALL = 128


@dataclass(frozen=True)
class Source:
    """An image to work on: the name it goes by, and its file or the bytes of one.

    One of more than `max_pixels` is refused.
    """

    name: str
    image: Path | bytes
    max_pixels: int = field(default=MAX_OWN_PIXELS, kw_only=True)

    @classmethod
    def of_file(cls, path: Path, max_pixels: int = MAX_OWN_PIXELS) -> "Source":
        """A file under its own path."""
        return cls(str(path), path, max_pixels=max_pixels)

    def picture(self) -> Image.Image:
        """The decoded image, RGB.

        Raises:
            ImageError: it does not decode.
        """
        return load_image(self.image, max_pixels=self.max_pixels)


@dataclass(frozen=True)
class Encoded:
    """An image's caption embeddings z (Q,d), on the model's device; `in_distribution` says
    whether it is like those that the model was trained on, as far as the model knows.
    """

    name: str
    z: Tensor
    in_distribution: bool | None = None


def default_batch_size(model: VLVModel) -> int:
    """Images at once where nobody says it: more of small ones, which are mostly overhead."""
    return 32 if model.encoder.settings.image_size <= _SMALL else 8


def encode_images(
    model: VLVModel, sources: Iterable[Source | Refused], *, batch_size: BatchSize = 8
) -> Iterator[Encoded | Refused]:
    """One result for each source, in order, as soon as its batch is done.

    An image that cannot be decoded is refused with its reason and stops no other; what was refused
    before passes through. While the model works on a batch, the next is decoded.
    """
    batches = Batches(batch_size)
    settings = model.encoder.settings
    # Each picture shrinks to the encoder's size before the next is decoded: a batch of large
    # photographs never lies in memory at full size.
    decoded = ([_pixels(settings, source) for source in batch] for batch in batches.of(sources))
    for batch in _one_ahead(decoded):
        good = [one for _, one in batch if not isinstance(one, Refused)]
        encoded = iter(batches.run(partial(encode_pixels, model), good))
        for name, one in batch:
            yield one if isinstance(one, Refused) else Encoded(name, *next(encoded))


def encode_pixels(model: VLVModel, pixels: Sequence[Pixels]) -> list[tuple[Tensor, bool | None]]:
    """Z (Q,d) and whether it is in distribution, of each picture at the encoder's size."""
    encoder = model.encoder  # taken here: what loads in inference mode can never be trained
    known = model.ood_detector
    with torch.inference_mode():
        tokens = encoder.image_tokens(encoder.preprocess_uint8(torch.from_numpy(np.stack(pixels))))
        z = encoder.embed(tokens)
        in_distribution = [None] * len(pixels) if known is None else known(tokens).tolist()
    return list(
        zip(z.clone(), in_distribution, strict=True)
    )  # ordinary tensors, which callers may train


def _pixels(settings: EncoderSettings, source: Source | Refused) -> tuple[str, Pixels | Refused]:
    if isinstance(source, Refused):
        return source.name, source
    try:
        image = source.picture()
    except ImageError as error:
        return source.name, Refused(source.name, error.reason, str(error))
    return source.name, encoder_pixels(image, settings.image_size, settings.crop_size)


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The items; each is made by another thread while the one before it is worked on."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
