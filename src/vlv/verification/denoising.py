"""How well texts explain a picture: denoising errors of the frozen decoder (paper, equation 1).

A text that is true of a picture helps the decoder to denoise it. All texts are judged on the same
noise at the same timesteps, so that what a single word changes is seen although the error itself
varies far more. Knows the decoder and conditionings; nothing of sentences.

Shapes: K texts, S draws of timestep and noise, C,h,w latents, Q,d length and width of c.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlv.models.diffusion_decoder import DiffusionDecoder

# Rows are taken in blocks, and each block in passes of at least so many, so that a pass is short.
# On a processor they are fewer where latents have more positions.
_BLOCK = 64
_ROWS = 16
_POSITIONS = 8 * 8


@dataclass(frozen=True)
class Draws:
    """timesteps (S,) and noise (S,C,h,w), in turn for each level of noise: S = levels x repeats."""

    timesteps: Tensor
    noise: Tensor


def make_draws(
    decoder: DiffusionDecoder,
    latents: Tensor,
    levels: Sequence[float],
    repeats: int,
    seed: int = 0,
) -> Draws:
    """Draws at shares of the trained timesteps (0 no noise, 1 all of it), from a seed alone.

    latents (1,C,h,w) give shape and device. Noise comes in pairs of opposite signs, whose errors
    vary less in the mean.
    """
    trained = int(decoder.scheduler.config.num_train_timesteps)
    steps = torch.tensor([min(trained - 1, round(level * trained)) for level in levels])
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn((len(levels), (repeats + 1) // 2, *latents.shape[1:]), generator=generator)
    noise = torch.stack([half, -half], dim=2).flatten(1, 2)[:, :repeats].flatten(0, 1)
    return Draws(
        steps.repeat_interleave(repeats).to(latents.device),
        noise.to(latents.device, latents.dtype),
    )


@torch.no_grad()
def predictions(decoder: DiffusionDecoder, latents: Tensor, c: Tensor, draws: Draws) -> Tensor:
    """What the U-Net predicts under each text: (K,S,C,h,w) for c (K,Q,d)."""
    count, many = len(c), len(draws.timesteps)
    noisy = decoder.scheduler.add_noise(
        latents.expand_as(draws.noise), draws.noise, draws.timesteps
    )
    made = []
    for pairs in _passes(torch.arange(count * many, device=c.device), noisy):
        text, draw = pairs // many, pairs % many
        made.append(
            decoder.unet(
                noisy[draw], draws.timesteps[draw], encoder_hidden_states=c[text]
            ).sample.float()
        )
    return torch.cat(made).unflatten(0, (count, many))


def _passes(rows: Tensor, latents: Tensor) -> Iterator[Tensor]:
    """Rows in turn, in passes of about equal length."""
    most = _ROWS
    if latents.device.type == "cpu":
        most = max(1, most * _POSITIONS // max(_POSITIONS, latents.shape[-2] * latents.shape[-1]))
    for block in rows.split(_BLOCK):
        yield from block.tensor_split(max(1, len(block) // most))


def target(decoder: DiffusionDecoder, latents: Tensor, draws: Draws) -> Tensor:
    """What is to be predicted, (S,C,h,w): for an error that is stage 1's own loss."""
    return decoder.target(latents.expand_as(draws.noise), draws.noise, draws.timesteps).float()


def squared_errors(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared errors (K,S) of predictions (K,S,C,h,w) against wanted ones (S,C,h,w)."""
    return (made - wanted).square().flatten(2).mean(2)
