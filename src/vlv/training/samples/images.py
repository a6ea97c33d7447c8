"""What stages 1 and 2 learn from: pictures by index, of the embedded world or of a set on disk.

Both give bytes of the decoder's size, and the latents of a picture: the world's are computed once
and kept, those of a set on disk are computed when they are needed. Knows no loss.

Shapes: S side of the decoder's pictures in pixels, C, h, w those of their latents.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vlv.data.image_sets import ImageSet, open_image_set
from vlv.data.samples import Sample
from vlv.data.world_images import WorldImages
from vlv.errors import ConfigError, DatasetError, ImageError, TrainingError
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.preprocessing import decoder_pixels, encoder_pixels
from vlv.training.config import DataConfig, ImageSetConfig, TrainingConfig
from vlv.training.samples.caption_choice import CaptionChoice
from vlv.training.samples.latents import LatentCache
from vlv.training.stage import Batch
from vlv.training.stages.common import pixels, training_images, validation_images, world_data
from vlv.world.language import short_caption

logger = logging.getLogger(__name__)

# So many refused images in a row end a run: something is wrong with the whole set.
PATIENCE = 100
# Samples whose captions are looked at before a run begins.
_LOOKED_OVER = 64
# Pictures that are validated at once.
_VALIDATION_BATCH = 64


@dataclass(frozen=True)
class View:
    """What is seen at an index: tensors for the batch, and the caption if there is one."""

    item: Batch
    caption: str = ""


class HeldOut(ABC):
    """Pictures that a stage does not learn from; `images` are bytes (N,S,S,3)."""

    images: NDArray[np.uint8]
    batch_size = _VALIDATION_BATCH

    def __len__(self) -> int:
        return len(self.images)

    def chunks(self) -> list[range]:
        """Their numbers, as many together as are validated at once."""
        return [
            range(at, min(at + self.batch_size, len(self)))
            for at in range(0, len(self), self.batch_size)
        ]

    def bytes_of(self, chunk: range) -> Tensor:
        """Bytes (B,S,S,3) of some."""
        return torch.from_numpy(self.images[chunk.start : chunk.stop].copy())

    @abstractmethod
    def latents(self) -> Tensor:
        """Posterior means (N,C,h,w) of all, scaled."""

    @abstractmethod
    def captions(self, chunk: range) -> list[str]:
        """The captions of some: always the same ones."""


class Pictures(ABC):
    """Pictures to learn from. Where `counts_refused`, items say how many images they replace."""

    latent_shape: tuple[int, int, int] | None
    """None without a decoder."""
    crop_size: int | None = None
    """Of the decoder's crop, where pictures are cropped; None where they are of its size."""
    held_out: HeldOut
    counts_refused = False
    fingerprint: str | None = None

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abstractmethod
    def view(self, index: int, draws: Batch, words: np.random.Generator | None = None) -> View:
        """Picture `index` as bytes `image` (S,S,3), with a caption where `words` are asked for.

        `draws` are those of `denoising_draws`, or empty where nothing is denoised: they come back
        with `latents` (K,C,h,w), or as they are where latents are computed in the batch.
        """


def open_pictures(
    config: TrainingConfig,
    image_size: int,
    encoder_size: int,
    decoder: DiffusionDecoder | None,
    *,
    captioned: bool,
    denoised: bool,
) -> Pictures:
    """The pictures that `data` names, and those held out, for a decoder and an encoder that see
    them at these sizes; without a decoder nothing is denoised.
    """
    if isinstance(config.data, ImageSetConfig):
        return SetPictures(
            config, config.data, image_size, encoder_size, decoder, captioned=captioned
        )
    return WorldPictures(config, decoder, denoised=denoised)


def set_fingerprint(data: DataConfig) -> str | None:
    """Changes when the images on disk that `data` names do; None for the world, which its config
    describes.
    """
    return _open(data, data.set).fingerprint if isinstance(data, ImageSetConfig) else None


class WorldPictures(Pictures):
    """Scenes of the embedded world, with captions written anew at every position, or with one
    caption each.
    """

    def __init__(
        self, config: TrainingConfig, decoder: DiffusionDecoder | None, *, denoised: bool
    ) -> None:
        self._images = training_images(config)
        self._one_caption = world_data(config).one_caption
        self.latent_shape = None if decoder is None else _latent_shape(decoder)
        self._latents = None
        # Encoding them all can take longer than a run that denoises nothing.
        if denoised and decoder is not None:
            self._latents = LatentCache(decoder.vae, self._images, config.mixed_precision)
        self.held_out = WorldHeldOut(config, decoder)

    def __len__(self) -> int:
        return len(self._images)

    def view(self, index: int, draws: Batch, words: np.random.Generator | None = None) -> View:
        """Scene `index`, its latents out of the cache."""
        item = {"image": torch.from_numpy(self._images.images[index].copy())}
        if self._latents is not None and draws:
            item |= self._latents.put_into(draws, index)
        if words is None:
            return View(item, "")
        if self._one_caption:
            words = np.random.default_rng(self._images.first_seed + index)
        return View(item, short_caption(self._images.scene(index), words))


class WorldHeldOut(HeldOut):
    """Scenes of the `test` split."""

    def __init__(self, config: TrainingConfig, decoder: DiffusionDecoder | None) -> None:
        self._scenes = validation_images(config)
        self.images = self._scenes.images
        self._decoder = decoder
        self._precision = config.mixed_precision

    def latents(self) -> Tensor:
        """Out of the cache."""
        assert self._decoder is not None  # nobody else asks
        return LatentCache(self._decoder.vae, self._scenes, self._precision).means(len(self))

    def captions(self, chunk: range) -> list[str]:
        """One of the captions that a scene can have, chosen by its seed."""
        return [held_out_caption(self._scenes, index) for index in chunk]


class SetPictures(Pictures):
    """Images on disk, cropped as the decoder draws them; those that are refused are replaced.

    In the place of an image that does not decode, or has no caption where one is needed, comes
    the next good one of the set, so that what is seen is a function of the data alone.
    """

    counts_refused = True

    def __init__(
        self,
        config: TrainingConfig,
        data: ImageSetConfig,
        image_size: int,
        encoder_size: int,
        decoder: DiffusionDecoder | None,
        *,
        captioned: bool,
    ) -> None:
        self._images = _open(data, data.set)
        self._count = len(self._images)
        count = config.validation_count
        if data.validation_set is not None:
            apart = _open(data, data.validation_set)
            held = [(apart, index) for index in range(min(count, len(apart)))]
        else:
            self._count -= count
            if self._count < 1:
                raise ConfigError(
                    f"{data.set} holds {len(self._images)} images, of which validation_count "
                    f"({count}) would be held out; lower it, or name data.validation_set"
                )
            held = [(self._images, self._count + number) for number in range(count)]
        self._captioned = captioned
        self._choice = CaptionChoice(bool(data.join_captions))
        self._size = self.crop_size = image_size
        self._encoder_size = encoder_size
        self._told: set[int] = set()
        self.latent_shape = None if decoder is None else _latent_shape(decoder)
        self.fingerprint = f"{self._images.fingerprint}-{self._count}"
        self.held_out = SetHeldOut(self._decodable(held), decoder, config.train_batch_size)
        if captioned:
            first = [(self._images, index) for index in range(self._count)[:_LOOKED_OVER]]
            self._choice.look_over(_readable([*first, *held[:_LOOKED_OVER]]))

    def __len__(self) -> int:
        return self._count

    def view(self, index: int, draws: Batch, words: np.random.Generator | None = None) -> View:
        """Image `index` or the next good one; its latents are computed in the batch.

        Raises:
            TrainingError: `PATIENCE` images in a row are refused.
        """
        patience = min(PATIENCE, self._count)
        for refused in range(patience):
            at = (index + refused) % self._count
            try:
                image, caption = self._look(self._images, at, words)
            except (ImageError, DatasetError) as error:
                self._tell(at, error)
                continue
            item: Batch = {
                "image": torch.from_numpy(image),
                "refused": torch.tensor(float(refused)),
            }
            if self._encoder_size != self._size:
                seen = encoder_pixels(Image.fromarray(image), self._encoder_size)
                item["encoder_image"] = torch.from_numpy(seen.copy())
            return View(item | draws, caption)
        raise TrainingError(
            f"{patience} images in a row are refused, from number {index} of {self._count} on, the "
            "last one for the reason logged above; mend or replace the set that data.set names"
        )

    def _look(
        self, images: ImageSet, index: int, words: np.random.Generator | None = None
    ) -> tuple[NDArray[np.uint8], str]:
        """The crop of an image as bytes (S,S,3), and its caption where captions are learned."""
        sample = images[index]
        caption = self._choice.of(sample, words)
        if self._captioned and not caption:
            raise DatasetError(f"{sample.key} has no caption")
        return decoder_pixels(sample.picture(), self._size).copy(), caption

    def _tell(self, index: int, error: Exception) -> None:
        """Log the reason, once a process for each image."""
        if index not in self._told:
            self._told.add(index)
            reason = getattr(error, "reason", "unusable")
            logger.warning("image %d is refused (%s): %s", index, reason, error)

    def _decodable(self, held: list[tuple[ImageSet, int]]) -> tuple[NDArray[np.uint8], list[str]]:
        """The pictures and captions of those held-out samples that are good."""
        found = []
        for images, index in held:
            try:
                found.append(self._look(images, index))
            except (ImageError, DatasetError) as error:
                logger.warning("a held-out image is refused and left out: %s", error)
        if not found:
            raise TrainingError(
                f"none of the {len(held)} held-out images is usable; mend the set, or name another "
                "data.validation_set"
            )
        return np.stack([image for image, _ in found]), [caption for _, caption in found]


class SetHeldOut(HeldOut):
    """Held-out images of a set on disk, in memory."""

    def __init__(
        self,
        found: tuple[NDArray[np.uint8], list[str]],
        decoder: DiffusionDecoder | None,
        batch_size: int,
    ) -> None:
        self.images, self._captions = found
        # What fits for training, with its gradients, fits for validation.
        self.batch_size = min(batch_size, _VALIDATION_BATCH)
        self._decoder = decoder

    @torch.no_grad()
    def latents(self) -> Tensor:
        """Computed where the decoder is."""
        decoder = self._decoder
        assert decoder is not None  # nobody else asks
        device = decoder.vae.device
        parts = [
            decoder.encode_images(pixels(self.bytes_of(chunk)).to(device)).float().cpu()
            for chunk in self.chunks()
        ]
        return torch.cat(parts)

    def captions(self, chunk: range) -> list[str]:
        """Those of the set; empty where captions are not learned and there are none."""
        return self._captions[chunk.start : chunk.stop]


def held_out_caption(scenes: WorldImages, index: int) -> str:
    """The caption of a held-out scene: always the same one."""
    return short_caption(scenes.scene(index), np.random.default_rng(scenes.first_seed + index))


def _readable(places: list[tuple[ImageSet, int]]) -> Iterator[Sample]:
    """Those samples that can be read; what is wrong with others is told when they are seen."""
    for images, index in places:
        with suppress(DatasetError):
            yield images[index]


def _open(data: ImageSetConfig, path: Path) -> ImageSet:
    return open_image_set(path, format=data.format, index_folder=data.index_folder)


def _latent_shape(decoder: DiffusionDecoder) -> tuple[int, int, int]:
    config = decoder.vae.config
    side = decoder.image_size // 2 ** (len(config.block_out_channels) - 1)
    return int(config.latent_channels), side, side
