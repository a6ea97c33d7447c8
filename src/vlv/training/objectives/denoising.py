"""What every stage with a denoising loss shares: latents, noise and timesteps of a sample, and
the loss on held-out pictures with and without their conditioning.
"""

from functools import cached_property

import torch
from pydantic import Field
from torch import Tensor

from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.training.config import TrainingConfig
from vlv.training.samples.data_order import generator
from vlv.training.samples.images import HeldOut
from vlv.training.stage import Batch
from vlv.training.stages.common import pixels


class DenoisingConfig(TrainingConfig):
    """`timestep_bias`: how much oftener noisy timesteps are drawn; see `denoising_draws`."""

    timestep_bias: float = Field(1.0, ge=1.0)


def denoising_draws(
    latent_shape: tuple[int, int, int],
    seed: int,
    position: int,
    timesteps: int,
    *,
    bias: float,
    draws: int = 1,
) -> Batch:
    """Noise (K, C, h, w) and timesteps (K,) for K draws on one picture, and the `posterior_noise`
    (C, h, w) that picks its latents.

    Timestep t is drawn with a density proportional to t ** (bias - 1): 1 is the paper's uniform
    one. A larger bias draws more of the noisy timesteps, where what there is to see comes from c;
    at the least noisy ones the noised latents themselves tell nearly everything.
    """
    random = generator(seed, position, "denoising")
    noise = torch.randn((draws, *latent_shape), generator=random)
    # One draw from each of K equal spans: K timesteps of one picture never crowd together.
    spread = (torch.rand(1, generator=random) + torch.arange(draws) / draws) % 1.0
    noisiness = spread ** (1 / bias)
    return {
        "noise": noise,
        # A power just below 1 may round to 1.
        "timesteps": (noisiness * timesteps).long().clamp(max=timesteps - 1),
        "posterior_noise": torch.randn(latent_shape, generator=random),
    }


def denoising_loss(decoder: DiffusionDecoder, batch: Batch, c: Tensor) -> Tensor:
    """The paper's stage-1 loss, a scalar: mean over B samples and K draws; c is (B, Q, d)."""
    draws = batch["timesteps"].shape[1]
    loss = decoder.denoising_loss(
        batch_latents(decoder, batch).flatten(0, 1),
        c.repeat_interleave(draws, dim=0),
        batch["noise"].flatten(0, 1),
        batch["timesteps"].flatten(),
    )
    return loss.mean()


def batch_latents(decoder: DiffusionDecoder, batch: Batch) -> Tensor:
    """Latents (B, K, C, h, w) of a batch: those that came with it, or of its pictures."""
    if "latents" in batch:
        given: Tensor = batch["latents"]
        return given
    with torch.no_grad():
        latents = decoder.encode_images(pixels(batch["image"]), batch["posterior_noise"])
    return latents.unsqueeze(1).expand_as(batch["noise"])


class DenoisingProbe:
    """Denoising loss of held-out pictures at fixed noise and evenly spread timesteps."""

    def __init__(self, decoder: DiffusionDecoder, held_out: HeldOut) -> None:
        self._decoder = decoder
        self._held_out = held_out
        count = len(held_out)
        steps = int(decoder.scheduler.config.num_train_timesteps)
        self._timesteps = ((torch.arange(count) + 0.5) / count * steps).long()
        # Evenly spread, but not in the order of the pictures.
        random = torch.Generator().manual_seed(0)
        self._timesteps = self._timesteps[torch.randperm(count, generator=random)]
        self._random = random

    @cached_property
    def _latents_and_noise(self) -> tuple[Tensor, Tensor]:
        # Not before they are needed: by then the VAE is where it computes.
        latents = self._held_out.latents()
        return latents, torch.randn(latents.shape, generator=self._random)

    @torch.no_grad()
    def loss(self, c: Tensor) -> float:
        """Mean loss under c (count, Q, d)."""
        latents, noise = self._latents_and_noise
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
