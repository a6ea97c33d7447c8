"""Images -> caption embeddings z, batch by batch. A bad image stops no other image.

Shapes: B batch, Q queries, d width of z, S the encoder's image size.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlv.errors import ImageError
from vlv.inference.batching import Batches, BatchSize
from vlv.inference.records import Encoded, ImageInput, Refused
from vlv.models.config import EncoderSettings
from vlv.models.preprocessing import encoder_pixels
from vlv.models.vlv import VLVModel, check_num_queries

T = TypeVar("T")
Pixels = NDArray[np.uint8]
"""A picture at the encoder's size (S,S,3)."""
# An encoder whose images have at most so many pixels a side is small.
_SMALL = 128


def default_batch_size(model: VLVModel) -> int:
    """Images in a batch if nobody sets it: more for small images, whose cost is mostly overhead."""
    return 32 if model.encoder.settings.image_size <= _SMALL else 8


def encode_images(
    model: VLVModel,
    images: Iterable[ImageInput | Refused],
    *,
    batch_size: BatchSize = 8,
    num_queries: int | None = None,
) -> Iterator[Encoded | Refused]:
    """One result for each image, in order, as soon as its batch is done.

    An image that cannot be decoded is refused with its reason, and the others go on; earlier
    refusals pass through. The next batch is decoded while the model works on this one.
    num_queries: keep the first so many embeddings of each image.

    Raises:
        ConfigError: the model has fewer queries.
    """
    if num_queries is not None:  # the encoder is not loaded before there are images
        check_num_queries(num_queries, model.encoder.settings.num_queries)
    return _encode_images(model, images, batch_size, num_queries)


def _encode_images(
    model: VLVModel,
    images: Iterable[ImageInput | Refused],
    batch_size: BatchSize,
    num_queries: int | None,
) -> Iterator[Encoded | Refused]:
    batches = Batches(batch_size)
    settings = model.encoder.settings
    # Each picture shrinks to the encoder's size before the next is decoded, so that a batch of
    # large photographs never lies in memory at full size.
    decoded = ([(one, _pixels(settings, one)) for one in batch] for batch in batches.of(images))
    for batch in _one_ahead(decoded):
        good = [pixels for _, pixels in batch if not isinstance(pixels, Refused)]
        encode = partial(encode_pixels, model, num_queries=num_queries)
        encoded = iter(batches.run(encode, good))
        for image, pixels in batch:
            if isinstance(image, Refused):
                yield image
            elif isinstance(pixels, Refused):
                yield pixels
            else:
                yield Encoded(image, *next(encoded))


def encode_pixels(
    model: VLVModel, pixels: Sequence[Pixels], num_queries: int | None = None
) -> list[tuple[Tensor, bool | None]]:
    """Z (Q,d) of each picture, or its first num_queries embeddings, and whether the picture is in
    distribution.
    """
    # Loaded outside: weights made in inference mode cannot be trained.
    encoder, _ = model.encoder, model.ood_detector
    with torch.inference_mode():
        pixel_values = encoder.preprocess_uint8(torch.from_numpy(np.stack(pixels)))  # (B,3,S,S)
        z, in_distribution = model.embed_and_detect(pixel_values, num_queries)  # (B,Q,d)
    # The clone is an ordinary tensor, which a caller may train on.
    return list(zip(z.clone(), in_distribution, strict=True))


def _pixels(settings: EncoderSettings, image: ImageInput | Refused) -> Pixels | Refused:
    if isinstance(image, Refused):
        return image
    try:
        picture = image.picture()
    except ImageError as error:
        return Refused(image.name, error.reason, str(error))
    return encoder_pixels(picture, settings.image_size, settings.crop_size)


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The items; a thread makes the next one while the caller works on this one."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
