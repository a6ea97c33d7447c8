"""Pictures that an objective is validated on. Knows no objective.

Shapes: N pictures, S their side in pixels, B of them at once, C, h, w their latents.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlv.data.world_images import WorldImages
from vlv.models.precision import Precision
from vlv.training.samples.latents import LatentCache
from vlv.world.inspector import to_pixels
from vlv.world.language import short_caption

if TYPE_CHECKING:
    from vlv.models.diffusion_decoder import DiffusionDecoder

# Pictures that are validated at once.
BATCH = 64


class HeldOut(ABC):
    """Pictures that nothing is learned from; `images` are bytes (N,S,S,3)."""

    images: NDArray[np.uint8]
    batch_size = BATCH

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
    def latents(self, decoder: "DiffusionDecoder") -> Tensor:
        """Posterior means (N,C,h,w) of all, scaled."""

    @abstractmethod
    def captions(self, chunk: range) -> list[str]:
        """The captions of some: always the same ones."""


class WorldHeldOut(HeldOut):
    """Scenes of the embedded world, whose latents are cached."""

    def __init__(self, scenes: WorldImages, precision: Precision) -> None:
        self.images = scenes.images
        self._scenes = scenes
        self._precision = precision

    def latents(self, decoder: "DiffusionDecoder") -> Tensor:
        """Read from the cache, which is written first where it is missing."""
        return LatentCache(decoder.vae, self._scenes, self._precision).means(len(self))

    def captions(self, chunk: range) -> list[str]:
        """One of the captions that a scene can have, chosen by its seed."""
        return [held_out_caption(self._scenes, index) for index in chunk]


class SetHeldOut(HeldOut):
    """Held-out images of a set on disk, in memory; at most `batch_size` are validated at once."""

    def __init__(self, images: NDArray[np.uint8], captions: Sequence[str], batch_size: int) -> None:
        self.images = images
        self._captions = captions
        # What fits for training, with its gradients, fits for validation.
        self.batch_size = min(batch_size, BATCH)

    @torch.no_grad()
    def latents(self, decoder: "DiffusionDecoder") -> Tensor:
        """Computed where the decoder is."""
        device = decoder.vae.device
        parts = [
            decoder.encode_images(to_pixels(self.bytes_of(chunk)).to(device)).float().cpu()
            for chunk in self.chunks()
        ]
        return torch.cat(parts)

    def captions(self, chunk: range) -> list[str]:
        """Those of the set; empty where captions are not learned and there are none."""
        return list(self._captions[chunk.start : chunk.stop])


def held_out_caption(scenes: WorldImages, index: int) -> str:
    """The caption of a held-out scene: always the same one."""
    return short_caption(scenes.scene(index), np.random.default_rng(scenes.first_seed + index))
