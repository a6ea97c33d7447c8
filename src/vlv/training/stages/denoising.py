"""What every stage with a denoising loss shares: latents, noise and timesteps of a sample, and
the loss on held-out pictures with and without their conditioning.
"""

import torch
from pydantic import Field
from torch import Tensor

from vlv.models.diffusion import DiffusionDecoder
from vlv.training.config import TrainingConfig
from vlv.training.latents import LatentCache
from vlv.training.order import generator
from vlv.training.stage import Batch

_VALIDATION_BATCH = 64


class DenoisingConfig(TrainingConfig):
    """`timestep_bias`: how much oftener noisy timesteps are drawn; see `denoising_item`."""

    timestep_bias: float = Field(1.0, ge=1.0)


def denoising_item(
    latents: LatentCache,
    seed: int,
    position: int,
    index: int,
    timesteps: int,
    *,
    bias: float,
    draws: int = 1,
) -> Batch:
    """Latents (K, C, h, w), noise (K, C, h, w) and timesteps (K,) for K draws on one picture.

    Timestep t is drawn with a density proportional to t ** (bias - 1): 1 is the paper's uniform
    one. A larger bias draws more of the noisy timesteps, where what there is to see comes from c;
    at the least noisy ones the noised latents themselves tell nearly everything.
    """
    random = generator(seed, position, "denoising")
    shape = (draws, *latents.shape)
    noise = torch.randn(shape, generator=random)
    # One draw from each of K equal spans: K timesteps of one picture never crowd together.
    spread = (torch.rand(1, generator=random) + torch.arange(draws) / draws) % 1.0
    noisiness = spread ** (1 / bias)
    latent = latents.sample(index, torch.randn(latents.shape, generator=random))
    return {
        "latents": latent.expand(shape),
        "noise": noise,
        # A power just below 1 may round to 1.
        "timesteps": (noisiness * timesteps).long().clamp(max=timesteps - 1),
    }


def denoising_loss(decoder: DiffusionDecoder, batch: Batch, c: Tensor) -> Tensor:
    """The paper's stage-1 loss, a scalar: mean over B samples and K draws; c is (B, Q, d)."""
    draws = batch["timesteps"].shape[1]
    loss = decoder.denoising_loss(
        batch["latents"].flatten(0, 1),
        c.repeat_interleave(draws, dim=0),
        batch["noise"].flatten(0, 1),
        batch["timesteps"].flatten(),
    )
    return loss.mean()


class DenoisingProbe:
    """Denoising loss of held-out pictures at fixed noise and evenly spread timesteps."""

    def __init__(self, decoder: DiffusionDecoder, latents: LatentCache, count: int) -> None:
        self._decoder = decoder
        self._latents = latents.means(count)
        steps = int(decoder.scheduler.config.num_train_timesteps)
        self._timesteps = ((torch.arange(count) + 0.5) / count * steps).long()
        # Evenly spread, but not in the order of the pictures.
        random = torch.Generator().manual_seed(0)
        self._timesteps = self._timesteps[torch.randperm(count, generator=random)]
        self._noise = torch.randn(self._latents.shape, generator=random)

    @torch.no_grad()
    def loss(self, c: Tensor) -> float:
        """Mean loss under c (count, Q, d)."""
        chunks = [slice(at, at + _VALIDATION_BATCH) for at in range(0, len(c), _VALIDATION_BATCH)]
        parts = [
            self._decoder.denoising_loss(
                self._latents[chunk].to(c.device),
                c[chunk],
                self._noise[chunk].to(c.device),
                self._timesteps[chunk].to(c.device),
            )
            for chunk in chunks
        ]
        return float(torch.cat(parts).mean())
