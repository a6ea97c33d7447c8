"""A start for fresh encoders: z differs between pictures from the first step on.

A fresh transformer's states differ between places by 1 and between pictures by 0.01, so z is nearly
the same for all pictures until training has found the difference and made it larger. A linear
readout finds it at once. `docs/speedrun.md` has what this start saves.

Shapes: n pictures, Q queries, D transformer width.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vlv.models.encoder import PhiHeads, VLVEncoder

# Pictures that are looked at. No caption is needed.
PICTURES = 192
# Of phi's first layer, as shares of its D units: directions, each with both signs, and mixtures.
_DIRECTIONS, _MIXTURES = 1 / 4, 1 / 3
# Directions that places differ in and that are left out, at most, as a share of D.
_PLACES = 1 / 2
# What the vision tower's fresh matrices are multiplied with: otherwise shapes differ too little.
_VISION_GAIN = 3.5
# The share of z that the whitened units begin with, and the least spread of a state (of about 1)
# that is taken for more than rounding.
_SHARE, _LEAST_SPREAD = 0.2, 2e-3
# Pictures that the encoder sees at a time.
_BATCH = 16


@torch.no_grad()
def start_whitened(encoder: VLVEncoder, pictures: Tensor, *, fresh_vision: bool) -> None:
    """Set most units of phi's first layer to whitened directions of what differs between pictures.

    These are the leading principal components of what the states of pictures differ in, orthogonal
    to what places differ in, scaled to a variance of 1, with both signs, and random mixtures of
    them. They begin with a small share of z.

    pictures: bytes (n,S,S,3), n > 1. fresh_vision: whether the vision tower's matrices are fresh;
    they are made larger then.
    """
    if fresh_vision:
        for module in encoder.florence.vision_tower.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.weight.mul_(_VISION_GAIN)
    states = torch.cat(list(_states(encoder, pictures)))
    rows, biases = _whitened_units(states)
    heads: Any = encoder.phi.values() if isinstance(encoder.phi, PhiHeads) else (encoder.phi,)
    for head in heads:
        first, last = head[0], head[-1]
        first.weight[: len(rows)] = rows
        first.bias[: len(rows)] = biases
        last.weight[:, : len(rows)] *= _SHARE


def _states(encoder: VLVEncoder, pictures: Tensor) -> Iterator[Tensor]:
    """What enters phi (n,Q,D), in batches."""
    seen: list[Tensor] = []
    handle = encoder.phi.register_forward_pre_hook(lambda _phi, given: seen.append(given[0]))
    training = encoder.training
    encoder.eval()
    try:
        for part in pictures.split(_BATCH):
            encoder(encoder.preprocess_uint8(part))
            yield seen.pop().float()
    finally:
        handle.remove()
        encoder.train(training)


def _whitened_units(states: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (units,D) and biases (units,) of a linear layer on states (n,Q,D)."""
    count, _, width = states.shape
    number, mixtures = min(int(width * _DIRECTIONS), count - 1), int(width * _MIXTURES)
    means = states.mean(0)  # (Q,D)
    centre = means.mean(0)
    places = min(len(means) - 1, int(width * _PLACES))
    of_places = torch.linalg.svd((means - centre).T, full_matrices=False)[0][:, :places]
    apart = (states - means).mean(1)  # (n,D)
    apart = apart - apart @ of_places @ of_places.T
    variances, directions = torch.linalg.eigh(apart.T @ apart / count)
    variances, directions = variances[-number:], directions[:, -number:]
    whitened = (directions / variances.clamp(min=_LEAST_SPREAD**2).sqrt()).T
    whitened = whitened - whitened @ of_places @ of_places.T
    random = torch.Generator().manual_seed(0)
    mixture = torch.randn(mixtures, number, generator=random).to(whitened) * 1.5 / number**0.5
    rows = torch.cat([whitened, -whitened, mixture @ whitened])
    biases = -rows @ centre
    biases[2 * number :] += torch.randn(mixtures, generator=random).to(biases)
    return rows, biases
