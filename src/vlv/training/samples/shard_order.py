"""The data order of sets that come in shards from afar: few shards are read at one time.

As the others (`data_order`), it is a function of (seed, position) and of the shards' sizes alone,
so that a run goes on exactly where it was, with any number of processes and workers. In an epoch

1. the shards are permuted, by a key of the epoch, and stand one after another;
2. this row is cut into `streams` equal parts, which are read side by side: position p is of part
   p mod `streams`. Process r of as many processes as streams, or of a divisor of them, has parts
   of its own, and fetches their shards alone;
3. each part is cut into blocks of `buffer` samples, which are permuted, as a shuffle buffer would.

Every sample is seen once. mosaicml-streaming shuffles alike (its `num_canonical_nodes` and
`shuffle_block_size`), and WebDataset with a buffer that has a state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from vlv.training.samples.data_order import KeyedPermutation, key

STREAMS = 8
"""Parts that are read side by side, where a config names no number."""
BUFFER = 16_384
"""Samples that are shuffled together, where a config names no number."""


@dataclass(frozen=True, eq=False)
class Shards:
    """The shards of a set, by their numbers of samples; and how they are read."""

    sizes: tuple[int, ...]
    streams: int = STREAMS
    buffer: int = BUFFER
    is_remote: bool = True

    @classmethod
    def of_first(
        cls, count: int, sizes: Sequence[int], streams: int, buffer: int, is_remote: bool
    ) -> "Shards":
        """The shards of the first `count` samples of a set."""
        ends = np.minimum(np.cumsum(sizes, dtype=np.int64), count)
        return cls(tuple(np.diff(ends, prepend=0).tolist()), streams, buffer, is_remote)

    def index(self, seed: int, position: int) -> int:
        """Which sample is seen at a position."""
        epoch, offset = divmod(position, self._total)
        return _epoch(self, seed, epoch).index(offset)

    @cached_property
    def _total(self) -> int:
        return sum(self.sizes)

    def ahead(self, seed: int, position: int) -> int:
        """A sample of the block after that of a position: what it lies in will be needed."""
        return self.index(seed, position + self.streams * self.buffer)


class _Epoch:
    """The order of one epoch."""

    def __init__(self, shards: Shards, seed: int, epoch: int) -> None:
        count = len(shards.sizes)
        sizes = np.array(shards.sizes, dtype=np.int64)
        order = KeyedPermutation(key(seed, "shards"), epoch, count)
        self._shards: NDArray[np.int64] = order.indices(np.arange(count, dtype=np.uint64)).astype(
            np.int64
        )
        # First samples of the shards in the set, and their ends in the row of this epoch.
        self._starts = np.cumsum(sizes) - sizes
        self._sizes = sizes
        self._ends = np.cumsum(sizes[self._shards])
        self._total = int(sizes.sum())
        self._streams, self._buffer = shards.streams, shards.buffer
        self._seed, self._epoch = seed, epoch

    def index(self, offset: int) -> int:
        """Where `offset` of the epoch goes."""
        least, more = divmod(self._total, self._streams)
        within, stream = divmod(offset, self._streams)
        start = stream * least + min(stream, more)
        length = least + (stream < more)
        block = within // self._buffer
        first = block * self._buffer
        size = min(self._buffer, length - first)
        permutation = _block(self._seed, self._epoch, stream, block, size)
        place = start + first + permutation.index(within - first)
        found = int(np.searchsorted(self._ends, place, side="right"))
        shard = int(self._shards[found])
        return int(self._starts[shard] + place - (self._ends[found] - self._sizes[shard]))


_epoch = lru_cache(maxsize=2)(_Epoch)


@lru_cache(maxsize=256)
def _block(seed: int, epoch: int, stream: int, block: int, size: int) -> KeyedPermutation:
    return KeyedPermutation(key(seed, "block", stream, block), epoch, size)
