"""The data order, and the noise that belongs to each sample: functions of position alone.

A position is the number of a sample since the start of the run, over all processes. What is seen
at a position depends on (seed, position) and on nothing else: not on the number of processes or
workers, nor on where a run was cut off.

Every epoch is a permutation of the samples, and a run keeps to one of three kinds of them:

1. a permutation that is drawn and kept in memory, 8 bytes a sample;
2. a keyed permutation, which is computed a position at a time: a Feistel network over a grid that
   is hardly larger than the set, walked until it is inside (Black and Rogaway, "Ciphers with
   arbitrary finite domains", 2002). It needs no memory and no time to start;
3. the second one of the shards of a set, and of blocks within them (`shard_order`).
"""

import hashlib
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from vlv.errors import TrainingError

DataOrder = Literal[1, 2, 3]
NEW_RUNS: DataOrder = 2
"""The data order of runs that do not name one, unless their set lies in an object store."""
BY_SHARDS: DataOrder = 3
"""The data order of those."""
FIRST_RUNS: DataOrder = 1
"""The data order of runs that began before there was another."""

_ROUNDS = 16
_64_BITS = 2**64 - 1


def order_of_run(wish: DataOrder | None, saved: DataOrder, where: Path) -> DataOrder:
    """The data order of a run that goes on from a checkpoint of the order `saved`, which `where`
    holds.

    Raises:
        TrainingError: its config names another.
    """
    if wish not in (None, saved):
        raise TrainingError(
            f"{where} was made with data_order {saved}, and the config names {wish}; leave "
            "data_order out, or set another output_dir or resume_from_checkpoint=null"
        )
    return saved


def sample_index(seed: int, position: int, size: int, order: Literal[1, 2]) -> int:
    """Which of `size` samples is seen at `position`; every epoch is a fresh permutation."""
    epoch, offset = divmod(position, size)
    if order == 1:
        return int(_drawn_permutation(seed, epoch, size)[offset])
    return _keyed_permutation(seed, epoch, size).index(offset)


@lru_cache(maxsize=2)
def _drawn_permutation(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(size)


class KeyedPermutation:
    """The permutation of 0 .. size - 1 that belongs to (seed, epoch).

    A number is a place (left, right) on a grid of about sqrt(size) by sqrt(size). A round shifts
    one of the two by a hash of the other, so that it can be undone; all rounds together permute the
    grid. Of a place outside the set, the next one is taken, until one is inside.
    """

    def __init__(self, seed: int, epoch: int, size: int) -> None:
        self.size = size
        # An even width: shifts by an odd number alone make even permutations only.
        self._width = 2 * (math.isqrt(size - 1) // 2 + 1)
        self._height = -(-size // self._width)
        self._keys = [key(seed, epoch, "data order", number) for number in range(_ROUNDS)]

    def index(self, offset: int) -> int:
        """Where `offset` goes."""
        place: int = self._permute_grid(offset)
        while place >= self.size:
            place = self._permute_grid(place)
        return place

    def indices(self, offsets: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Where each of `offsets` goes, all at once."""
        places: NDArray[np.uint64] = self._permute_grid(offsets)
        while (outside := places >= self.size).any():
            places[outside] = self._permute_grid(places[outside])
        return places

    def _permute_grid(self, place: Any) -> Any:
        left, right = place // self._width, place % self._width
        for number in range(0, _ROUNDS, 2):
            left = (left + _hash(right, self._keys[number]) % self._height) % self._height
            right = (right + _hash(left, self._keys[number + 1]) % self._width) % self._width
        return left * self._width + right


_keyed_permutation = lru_cache(maxsize=2)(KeyedPermutation)


def _hash(number: Any, key: int) -> Any:
    """64 bits that depend on all bits of `number`, an int or array, and of the key: the finalizer
    of splitmix64 (Steele et al., "Fast splittable pseudorandom number generators", 2014).
    """
    number = (number * 0x9E3779B97F4A7C15 + key) & _64_BITS
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return number ^ (number >> 31)


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
