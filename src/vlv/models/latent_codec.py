"""Latent codecs: pixels to the latents that a denoiser works on, and back.

Shapes: B batch, C latent channels, h,w latent size, H,W image size.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import AutoencoderDC, AutoencoderKL


@dataclass(frozen=True)
class LatentScale:
    """How a VAE's own latents become those that a denoiser works on: (latents - shift) * factor."""

    factor: float
    shift: float = 0.0

    @classmethod
    def of(cls, vae: Any) -> "LatentScale":
        """That of a VAE's config; most shift nothing."""
        return cls(float(vae.config.scaling_factor), float(vae.config.get("shift_factor") or 0.0))

    def scaled(self, latents: Tensor) -> Tensor:
        """Scaled latents of a VAE's own."""
        return (latents - self.shift if self.shift else latents) * self.factor

    def raw(self, latents: Tensor) -> Tensor:
        """A VAE's own latents of scaled ones."""
        latents = latents / self.factor
        return latents + self.shift if self.shift else latents


@dataclass(frozen=True)
class LatentCodec(ABC):
    """What training, drawing and verification need of either."""

    vae: Any

    @abstractmethod
    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Scaled latents (B,C,h,w) of pixels (B,3,H,W) in [-1,1]."""

    @abstractmethod
    def moments(self, pixels: Tensor) -> Tensor:
        """Posterior mean and deviation (B,2,C,h,w) of pixels, not scaled."""

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B,3,H,W), nominally in [-1,1], of scaled latents (B,C,h,w)."""
        pixels: Tensor = self.vae.decode(LatentScale.of(self.vae).raw(latents)).sample
        return pixels

    @abstractmethod
    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """(C,h,w) of the latents of square images."""


@dataclass(frozen=True)
class KLCodec(LatentCodec):
    """An `AutoencoderKL`: latents are drawn from a posterior, shifted and scaled."""

    vae: "AutoencoderKL"

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Scaled latents (B,C,h,w) of pixels (B,3,H,W) in [-1,1].

        noise (B,C,h,w), standard normal, draws from the posterior; None takes its mean.
        """
        posterior = self.vae.encode(pixels).latent_dist
        latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise
        return LatentScale.of(self.vae).scaled(latents)

    def moments(self, pixels: Tensor) -> Tensor:
        """Posterior mean and deviation (B,2,C,h,w) of pixels, not scaled."""
        posterior = self.vae.encode(pixels).latent_dist
        return torch.stack([posterior.mean, posterior.std], dim=1)

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """(C,h,w) of the latents of square images."""
        config = self.vae.config
        side = int(image_size) // int(2 ** (len(config.block_out_channels) - 1))
        return int(config.latent_channels), side, side


@dataclass(frozen=True)
class DCCodec(LatentCodec):
    """An `AutoencoderDC` (deep compression, arXiv 2410.10733): latents without a posterior."""

    vae: "AutoencoderDC"

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Scaled latents (B,C,h,w) of pixels (B,3,H,W) in [-1,1]. There is one latent of a
        picture, whatever the noise.
        """
        return LatentScale.of(self.vae).scaled(self.vae.encode(pixels).latent)

    def moments(self, pixels: Tensor) -> Tensor:
        """The latents and zeros (B,2,C,h,w), as the latents have no spread."""
        latents = self.vae.encode(pixels).latent
        return torch.stack([latents, torch.zeros_like(latents)], dim=1)

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """(C,h,w) of the latents of square images."""
        side = int(image_size) // int(self.vae.spatial_compression_ratio)
        return int(self.vae.config.latent_channels), side, side


def codec_of(vae: Any) -> LatentCodec:
    """The codec of a VAE of either class."""
    return DCCodec(vae) if type(vae).__name__ == "AutoencoderDC" else KLCodec(vae)
