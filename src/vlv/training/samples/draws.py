"""Noise and noise levels of a sample, as functions of its position. Knows no noise process.

Shapes: K draws on one picture, C, h, w its latents.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vlv.training.samples.data_order import generator
from vlv.training.samples.source import Batch

# The largest float32 below 1.
_BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))

# Beyond it (2 / (pi - 2)) the map of `mode` no longer rises.
LARGEST_MODE_SCALE = 2 / (math.pi - 2)


@dataclass(frozen=True)
class TimestepDensity:
    """How often noise levels are drawn, as a map of uniform ones (SD3, arXiv 2403.03206, section
    3.1, with the names of diffusers' training script).

    `logit_normal`: the logit of the level is normal. A positive `logit_mean` draws noisy timesteps
    more often, as in the paper; diffusers' script looks levels up in a descending list, so that its
    sign is the opposite. `mode`: `mode_scale` above 0 draws the middle more often, below 0 the
    ends. `uniform` changes nothing.
    """

    kind: Literal["uniform", "logit_normal", "mode"] = "uniform"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29

    def levels(self, u: Tensor) -> Tensor:
        """Levels of this density of uniform u in [0,1). Rising: what was spread stays spread."""
        if self.kind == "logit_normal":
            normal = torch.special.ndtri(u.double())
            return torch.sigmoid(self.logit_mean + self.logit_std * normal).float()
        if self.kind == "mode":
            bent = torch.sin(math.pi * u.double() / 2).square() - u.double()
            return (u.double() - self.mode_scale * bent).float()
        return u


@dataclass(frozen=True)
class DrawSettings:
    """How noise is drawn for the pictures of a run: see `denoising_draws`."""

    latent_shape: tuple[int, int, int]
    seed: int
    bias: float = 1.0
    count: int = 1
    density: TimestepDensity = TimestepDensity()

    def at(self, position: int) -> Batch:
        """The draws at a position."""
        return denoising_draws(
            self.latent_shape,
            self.seed,
            position,
            bias=self.bias,
            draws=self.count,
            density=self.density,
        )


def denoising_draws(
    latent_shape: tuple[int, int, int],
    seed: int,
    position: int,
    *,
    bias: float = 1.0,
    draws: int = 1,
    density: TimestepDensity | None = None,
) -> Batch:
    """`noise` (K, C, h, w) and noise levels `u` (K,) in [0, 1) for K draws on one picture, and the
    `posterior_noise` (C, h, w) that picks its latents.

    The noise process maps u to a timestep: 0 is the least noise. u has a density proportional to
    u ** (bias - 1): 1 is the paper's uniform one. A larger bias draws noisy timesteps more often,
    a smaller one the others. At noisy ones, what the picture shows has to come from c; at the least
    noisy ones the noised latents themselves contain nearly everything. A `density` maps the levels
    once more.
    """
    random = generator(seed, position, "denoising")
    noise = torch.randn((draws, *latent_shape), generator=random)
    # One draw from each of K equal spans: the K levels of one picture never crowd together.
    spread = (torch.rand(1, generator=random) + torch.arange(draws) / draws) % 1.0
    levels = spread ** (1 / bias)
    if density is not None:
        levels = density.levels(levels)
    return {
        "noise": noise,
        # A power just below 1 may round to 1.
        "u": levels.clamp(0, _BELOW_ONE),
        "posterior_noise": torch.randn(latent_shape, generator=random),
    }
