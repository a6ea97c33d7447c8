"""What every objective with a denoising loss shares: the loss of a batch, and the loss on held-out
pictures with and without their conditioning.

Shapes: B batch, K draws on a picture, C, h, w latents.
"""

from functools import cached_property

import torch
from torch import Tensor

from vlv.models.conditioning import Conditioning
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.training.objectives.weighting import LossWeighting
from vlv.training.samples.held_out import HeldOut
from vlv.training.samples.source import Batch
from vlv.world.inspector import to_pixels

PLAIN = LossWeighting()


def denoising_loss(
    decoder: DiffusionDecoder,
    batch: Batch,
    c: Conditioning,
    weighting: LossWeighting = PLAIN,
) -> Tensor:
    """The paper's stage-1 loss, a scalar: mean over B samples and K draws; c of B samples."""
    draws = batch["u"].shape[1]
    timesteps = decoder.noise_process.timesteps(batch["u"]).flatten()
    loss = decoder.denoising_loss(
        batch_latents(decoder, batch).flatten(0, 1),
        c.repeat_interleave(draws),
        batch["noise"].flatten(0, 1),
        timesteps,
    )
    if not weighting.is_plain:
        loss = loss * weighting.weights(decoder.noise_process, timesteps)
    return loss.mean()


def batch_latents(decoder: DiffusionDecoder, batch: Batch) -> Tensor:
    """Latents (B, K, C, h, w) of a batch: those that came with it, or of its pictures."""
    if "latents" in batch:
        given: Tensor = batch["latents"]
        return given
    with torch.no_grad():
        latents = decoder.encode_images(to_pixels(batch["image"]), batch["posterior_noise"])
    return latents.unsqueeze(1).expand_as(batch["noise"])


class DenoisingProbe:
    """Denoising loss of held-out pictures at fixed noise and evenly spread timesteps."""

    def __init__(self, decoder: DiffusionDecoder, held_out: HeldOut) -> None:
        self._decoder = decoder
        self._held_out = held_out
        count = len(held_out)
        self._timesteps = decoder.noise_process.timesteps((torch.arange(count) + 0.5) / count)
        # Evenly spread, but not in the order of the pictures.
        random = torch.Generator().manual_seed(0)
        self._timesteps = self._timesteps[torch.randperm(count, generator=random)]
        self._random = random

    @cached_property
    def latents(self) -> Tensor:
        """Of all held-out pictures (N,C,h,w), scaled."""
        # Not before they are needed: by then the VAE is where it computes.
        return self._held_out.latents(self._decoder)

    @cached_property
    def _noise(self) -> Tensor:
        return torch.randn(self.latents.shape, generator=self._random)

    @torch.no_grad()
    def loss(self, c: Conditioning) -> float:
        """Mean loss under c of all held-out pictures."""
        latents, noise = self.latents, self._noise
        parts = [
            self._decoder.denoising_loss(
                latents[chunk.start : chunk.stop].to(c.device),
                c[chunk.start : chunk.stop],
                noise[chunk.start : chunk.stop].to(c.device),
                self._timesteps[chunk.start : chunk.stop].to(c.device),
            )
            for chunk in self._held_out.chunks()
        ]
        return float(torch.cat(parts).mean())
