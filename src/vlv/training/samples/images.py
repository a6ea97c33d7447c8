"""Stores of pictures by index: what stages 1 and 2 learn from. Knows no objective.

A store is of the embedded world or of a set on disk. Both give bytes of the decoder's size. Latents
of the world's pictures are computed once and cached; those of a set are computed in the batch, by
the objective, where no cache of them was made before.

Shapes: S side of the decoder's pictures in pixels, K draws, C, h, w latents.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from vlv.data.image_sets import ImageSet, open_image_set
from vlv.data.remote.locations import shown_name
from vlv.data.remote.store import StoreError
from vlv.data.samples import Sample
from vlv.data.world_images import WorldImages
from vlv.errors import ConfigError, DatasetError, ImageError, TrainingError
from vlv.models.precision import Precision
from vlv.models.preprocessing import decoder_pixels
from vlv.training.config import DataConfig, ImageSetConfig
from vlv.training.samples.captions import CaptionChoice
from vlv.training.samples.held_out import HeldOut, SetHeldOut
from vlv.training.samples.latents import LatentCache, Latents
from vlv.training.samples.set_latents import SetLatents
from vlv.training.samples.shard_order import BUFFER, STREAMS, Shards
from vlv.training.samples.source import Batch
from vlv.world.language import short_caption

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

logger = logging.getLogger(__name__)

# So many refused images in a row end a run: something is wrong with the whole set.
PATIENCE = 100
# Samples whose captions are looked at before a run begins.
_LOOKED_OVER = 64


@dataclass(frozen=True)
class View:
    """What is seen at an index: tensors for the batch, and the caption if there is one."""

    item: Batch
    caption: str = ""
    index: int | None = None
    """Of the picture itself, where it may be another one than was asked for."""


class ImageStore(ABC):
    """Pictures to learn from. Where `counts_refused`, items count the images that they replace."""

    crop_size: int | None = None
    """Of the decoder's crop, where pictures are cropped; None where they are of its size."""
    counts_refused = False
    fingerprint: str | None = None
    captions_fingerprint: str | None = None
    """Of captions that are learned, where `fingerprint` does not notice when they change."""
    shards: Shards | None = None
    """Where pictures come in shards, those."""
    _latents: Latents | None = None

    def fetch_ahead(self, index: int) -> None:  # noqa: B027
        """Begin to fetch what picture `index` needs, where that takes long."""

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abstractmethod
    def view(self, index: int, words: np.random.Generator | None = None) -> View:
        """Picture `index` as bytes `image` (S,S,3), with a caption where `words` are given."""

    def good_view(self, index: int, words: np.random.Generator | None = None) -> View | None:
        """As `view`, or None where another picture would replace `index`."""
        view = self.view(index, words)
        return None if float(view.item.get("refused", 0)) else view

    def with_latents(self, index: int, draws: Batch) -> Batch:
        """`draws` of `denoising_draws` with `latents` (K,C,h,w) of picture `index`; unchanged where
        latents are computed in the batch.
        """
        return draws if self._latents is None else self._latents.put_into(draws, index)


class WorldStore(ImageStore):
    """Scenes of the embedded world, with a new caption at every position, or one caption each."""

    def __init__(self, images: WorldImages, *, one_caption: bool) -> None:
        self._images = images
        self._one_caption = one_caption

    def cache_latents(self, vae: "AutoencoderKL", precision: Precision) -> None:
        """Compute the latents of all pictures, which can take longer than a short run."""
        self._latents = LatentCache(vae, self._images, precision)

    def __len__(self) -> int:
        return len(self._images)

    def view(self, index: int, words: np.random.Generator | None = None) -> View:
        """Scene `index`."""
        item = {"image": torch.from_numpy(self._images.images[index].copy())}
        if words is None:
            return View(item)
        if self._one_caption:
            words = np.random.default_rng(self._images.first_seed + index)
        return View(item, short_caption(self._images.scene(index), words))


class SetStore(ImageStore):
    """Images on disk, cropped as the decoder draws them; those that are refused are replaced.

    An image that does not decode, or has no caption where one is needed, is replaced by the next
    good one of the set, so that what is seen is a function of the data alone.
    """

    counts_refused = True

    def __init__(
        self,
        images: ImageSet,
        count: int,
        image_size: int,
        captions: CaptionChoice,
        *,
        captioned: bool,
        streams: int = STREAMS,
        buffer: int = BUFFER,
    ) -> None:
        """The first `count` images, for a decoder that draws them at this size; `streams` and
        `buffer` as for `Shards`.
        """
        self._images = images
        self._count = count
        self._captions = captions
        self._captioned = captioned
        self._size = self.crop_size = image_size
        self._latents: SetLatents | None = None
        self._reported: set[int] = set()
        self.fingerprint = f"{images.fingerprint}-{count}"
        if captioned:
            self.captions_fingerprint = images.captions_fingerprint
        if images.shard_sizes is not None:
            sizes = images.shard_sizes.tolist()
            self.shards = Shards.of_first(count, sizes, streams, buffer, images.is_remote)

    @property
    def images(self) -> ImageSet:
        """The set on disk, held-out images included."""
        return self._images

    def fetch_ahead(self, index: int) -> None:
        self._images.fetch_ahead(index)

    def use_latents(self, latents: SetLatents) -> None:
        """Take latents, and pictures where it holds them, from a cache of the whole set."""
        self._latents = latents

    def __len__(self) -> int:
        return self._count

    def view(self, index: int, words: np.random.Generator | None = None) -> View:
        """Image `index` or the next good one.

        Raises:
            TrainingError: `PATIENCE` images in a row are refused.
            StoreError: an object store does not give it.
        """
        patience = min(PATIENCE, self._count)
        for refused in range(patience):
            at = (index + refused) % self._count
            try:
                image, caption = self.look(self._images, at, words)
            except StoreError:
                raise  # the image may be good, and another one would make it another run
            except (ImageError, DatasetError) as error:
                self._report(at, error)
                continue
            item: Batch = {
                "image": torch.from_numpy(image),
                "refused": torch.tensor(float(refused)),
            }
            return View(item, caption, at)
        raise TrainingError(
            f"{patience} images in a row are refused, from number {index} of {self._count} on, the "
            "last one for the reason logged above; repair or replace the set that data.set names"
        )

    def look(
        self, images: ImageSet, index: int, words: np.random.Generator | None = None
    ) -> tuple[NDArray[np.uint8], str]:
        """The crop of an image as bytes (S,S,3), and its caption where captions are learned."""
        cached = self._cached(images, index)
        if cached is not None and not self._captioned:
            return cached, ""
        sample = images[index]
        caption = self._captions.of(sample, words)
        if self._captioned and not caption:
            raise DatasetError(f"{sample.key} has no caption")
        if cached is not None:
            return cached, caption
        return decoder_pixels(sample.picture(), self._size).copy(), caption

    def _cached(self, images: ImageSet, index: int) -> NDArray[np.uint8] | None:
        """The crop from the cache, if there is one. Raises ImageError where it was refused."""
        if self._latents is None or images is not self._images:
            return None
        self._latents.check(index)
        return self._latents.picture(index)

    def _report(self, index: int, error: Exception) -> None:
        """Log the reason, once a process for each image."""
        if index not in self._reported:
            self._reported.add(index)
            reason = getattr(error, "reason", "unusable")
            logger.warning("image %d is refused (%s): %s", index, reason, error)


def open_image_sets(
    data: ImageSetConfig,
    image_size: int,
    *,
    validation_count: int,
    batch_size: int,
    captioned: bool,
) -> tuple[SetStore, HeldOut]:
    """The images on disk that `data` names, and those of them, or of another set, that are held
    out, for a decoder that draws them at this size.
    """
    images = _open(data, data.set)
    count = len(images)
    if data.validation_set is not None:
        apart = _open(data, data.validation_set)
        held = [(apart, index) for index in range(min(validation_count, len(apart)))]
    else:
        count -= validation_count
        if count < 1:
            raise ConfigError(
                f"{shown_name(data.set)} holds {len(images)} images, of which validation_count "
                f"({validation_count}) would be held out; lower it, or name data.validation_set"
            )
        held = [(images, count + number) for number in range(validation_count)]
    captions = CaptionChoice(bool(data.join_captions))
    store = SetStore(
        images,
        count,
        image_size,
        captions,
        captioned=captioned,
        streams=data.streams or STREAMS,
        buffer=data.shuffle_buffer or BUFFER,
    )
    held_out = SetHeldOut(*_decodable(store, held), batch_size)
    if captioned:
        first = [(images, index) for index in range(count)[:_LOOKED_OVER]]
        captions.look_over(_readable([*first, *held[:_LOOKED_OVER]]))
    return store, held_out


def set_fingerprint(data: DataConfig) -> str | None:
    """Changes when the images on disk that `data` names do; None for the world, which its config
    describes.
    """
    return _open(data, data.set).fingerprint if isinstance(data, ImageSetConfig) else None


def _decodable(
    store: SetStore, held: list[tuple[ImageSet, int]]
) -> tuple[NDArray[np.uint8], list[str]]:
    """The pictures and captions of those held-out samples that are good."""
    found, last = [], ""
    for images, index in held:
        try:
            found.append(store.look(images, index))
        except StoreError:
            raise
        except (ImageError, DatasetError) as error:
            last = str(error)
            logger.warning("a held-out image is refused and left out: %s", last)
    if not found:
        raise TrainingError(
            f"none of the {len(held)} held-out images is usable (the last one: {last}); repair the "
            "set, or name another data.validation_set"
        )
    return np.stack([image for image, _ in found]), [caption for _, caption in found]


def _readable(places: list[tuple[ImageSet, int]]) -> Iterator[Sample]:
    """Those samples that can be read; what is wrong with others is logged when they are seen."""
    for images, index in places:
        with suppress(DatasetError):
            yield images[index]


def _open(data: ImageSetConfig, path: Path) -> ImageSet:
    return open_image_set(path, format=data.format, index_folder=data.index_folder)
