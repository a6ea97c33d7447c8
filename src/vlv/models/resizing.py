"""Pillow's bicubic resizing on any device, equal to the byte.

The encoder sees the decoder's crop enlarged, 384 to 768 px in the paper. Enlarged on the device, a
quarter of the bytes travels there and the workers of a data loader have less to do. PyTorch's own
bicubic kernel rounds elsewhere and differs by a level of 255 here and there; this is the arithmetic
of Pillow's `Resample.c` (8 bits a channel): two passes, rows first, with weights of 22 fractional
bits and rounding to bytes after each.

Shapes: B batch, S old side, T new side in pixels.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# Of the weights; eight bits are the pixels' and two are for values that overshoot.
_FRACTION = 32 - 8 - 2
_SUPPORT = 2.0
_SHARPNESS = -0.5


def resize_bicubic(pixels: Tensor, size: int) -> Tensor:
    """Bytes (B,T,T,3) of bytes (B,S,S,3), T = size: what `Image.resize` makes of each picture.

    On a CPU by Pillow, whose own code is faster there.
    """
    if pixels.device.type != "cpu":
        return resize_as_pillow(pixels, size)
    pictures = [Image.fromarray(one) for one in pixels.numpy()]
    resized = [one.resize((size, size), Image.Resampling.BICUBIC) for one in pictures]
    return torch.from_numpy(np.stack([np.asarray(one) for one in resized]))


def resize_as_pillow(pixels: Tensor, size: int) -> Tensor:
    """As `resize_bicubic`, by tensor operations that any device has."""
    across = _resize_rows(pixels, size)
    return _resize_rows(across.transpose(1, 2), size).transpose(1, 2).contiguous()


def _resize_rows(pixels: Tensor, size: int) -> Tensor:
    """Bytes (B,H,T,3) of bytes (B,H,S,3)."""
    first, weights = _weights(pixels.shape[2], size, pixels.device)
    last = pixels.shape[2] - 1
    shape = (*pixels.shape[:2], size, pixels.shape[3])
    total = torch.full(shape, 1 << (_FRACTION - 1), dtype=torch.int32, device=pixels.device)
    for number, weight in enumerate(weights):
        taken = pixels.index_select(2, (first + number).clamp(max=last))
        total += taken.int() * weight[:, None]
    return (total >> _FRACTION).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=8)
def _weights(old: int, new: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The first old pixel that each new one depends on (T,), and the weights (K,T) of that one and
    of those that follow.
    """
    scale = old / new
    stretch = max(scale, 1.0)
    reach = _SUPPORT * stretch
    first, rows = [], []
    for at in range(new):
        center = (at + 0.5) * scale
        low = max(int(center - reach + 0.5), 0)
        high = min(int(center + reach + 0.5), old)
        weights = [_bicubic((x - center + 0.5) / stretch) for x in range(low, high)]
        total = sum(weights)
        first.append(low)
        rows.append([_fixed(weight / total) for weight in weights])
    longest = max(map(len, rows))
    padded = [row + [0] * (longest - len(row)) for row in rows]
    return (
        torch.tensor(first, device=device),
        torch.tensor(padded, dtype=torch.int32, device=device).T.contiguous(),
    )


def _bicubic(x: float) -> float:
    x, a = abs(x), _SHARPNESS
    if x < 1:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    if x < 2:
        return (((x - 5) * x + 8) * x - 4) * a
    return 0.0


def _fixed(weight: float) -> int:
    """A weight as an integer, rounded half away from zero."""
    return math.trunc(weight * (1 << _FRACTION) + math.copysign(0.5, weight))


def constant(values: list[float] | tuple[float, ...], device: torch.device) -> Tensor:
    """A few numbers on a device. They go there once: a copy from unpinned memory waits until the
    device has done all its work.
    """
    return _constant(tuple(values), device)


@lru_cache(maxsize=32)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)
