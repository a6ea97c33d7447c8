"""Noise and noise levels of a sample, as functions of its position. Knows no noise process.

Shapes: K draws on one picture, C, h, w its latents.
"""

from dataclasses import dataclass

import numpy as np
import torch

from vlv.training.samples.data_order import generator
from vlv.training.samples.source import Batch

# The largest float32 below 1.
_BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))


@dataclass(frozen=True)
class DrawSettings:
    """How noise is drawn for the pictures of a run: see `denoising_draws`."""

    latent_shape: tuple[int, int, int]
    seed: int
    bias: float = 1.0
    count: int = 1

    def at(self, position: int) -> Batch:
        """The draws at a position."""
        return denoising_draws(
            self.latent_shape, self.seed, position, bias=self.bias, draws=self.count
        )


def denoising_draws(
    latent_shape: tuple[int, int, int],
    seed: int,
    position: int,
    *,
    bias: float = 1.0,
    draws: int = 1,
) -> Batch:
    """`noise` (K, C, h, w) and noise levels `u` (K,) in [0, 1) for K draws on one picture, and the
    `posterior_noise` (C, h, w) that picks its latents.

    The noise process maps u to a timestep: 0 is the least noise. u has a density proportional to
    u ** (bias - 1): 1 is the paper's uniform one. A larger bias draws noisy timesteps more often.
    There, what the picture shows has to come from c; at the least noisy timesteps the noised
    latents themselves contain nearly everything.
    """
    random = generator(seed, position, "denoising")
    noise = torch.randn((draws, *latent_shape), generator=random)
    # One draw from each of K equal spans: the K levels of one picture never crowd together.
    spread = (torch.rand(1, generator=random) + torch.arange(draws) / draws) % 1.0
    return {
        "noise": noise,
        # A power just below 1 may round to 1.
        "u": (spread ** (1 / bias)).clamp(max=_BELOW_ONE),
        "posterior_noise": torch.randn(latent_shape, generator=random),
    }
