"""The data order, and the noise that belongs to each sample: functions of position alone.

A position is the number of a sample since the start of the run, over all processes. What is seen
at a position depends on (seed, position) and on nothing else: not on the number of processes or
workers, nor on where a run was cut off.
"""

import hashlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(size)


def sample_index(seed: int, position: int, size: int) -> int:
    """Which of `size` samples is seen at `position`; every epoch is a fresh permutation."""
    epoch, offset = divmod(position, size)
    return int(_epoch_order(seed, epoch, size)[offset])


def key(*parts: int | str) -> int:
    """A 63-bit number that depends on all parts, for seeding."""
    text = "/".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(seed: int, position: int, purpose: str) -> torch.Generator:
    """The source of randomness for one purpose (noise, timestep, ...) at one position."""
    return torch.Generator().manual_seed(key(seed, position, purpose))


def numpy_generator(seed: int, position: int, purpose: str) -> np.random.Generator:
    """As `generator`, for what draws from numpy."""
    return np.random.default_rng(key(seed, position, purpose))


class PositionSampler(Sampler[list[int]]):
    """Yields this process's positions, a micro-batch at a time, from `first_step` to `last_step`.

    A global micro-batch of world_size * batch_size positions is dealt to the processes in turn.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        micro_batches: int,
        first_step: int,
        last_step: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.batch_size = batch_size
        self.micro_batches = range(first_step * micro_batches, last_step * micro_batches)
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[list[int]]:
        width = self.batch_size * self.world_size
        for number in self.micro_batches:
            start = number * width + self.rank
            yield list(range(start, (number + 1) * width, self.world_size))

    def __len__(self) -> int:
        return len(self.micro_batches)
