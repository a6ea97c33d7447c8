"""Keys and values of rows that start and end at any time: one slot a row, with room to grow.

The cache of `generate` is copied whole for every token, and pads the shorter rows on the left. Here
each row begins at the first position of its slot, a new token is written in place, and a row that
ends gives its slot to the last one.

Shapes: R slots, n of them in use, H heads of keys and values, P positions that a slot has room for,
L of them in use by the longest row, D width of a head.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

# Positions that slots grow by: 64 tokens of a caption without a copy.
_BLOCK = 64


class SlotCache(Cache):
    """A cache of n rows, which `lm.forward` extends by one token each.

    Before such a pass, `begin` says how many positions each row has.
    """

    layers: list["_SlotLayer"]

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._rows = 0

    def append(self, new: DynamicCache, copies: Sequence[int]) -> None:
        """Add rows: copies[i] of row i of a cache whose rows have equally many positions."""
        if not self.layers:
            self.layers = [_SlotLayer() for _ in new.layers]
        picked = [row for row, count in enumerate(copies) for _ in range(count)]
        for layer, filled in zip(self.layers, new.layers, strict=True):
            layer.append(self._rows, filled.keys[picked], filled.values[picked])
        self._rows += len(picked)

    def remove(self, row: int) -> None:
        """Free the slot of a row; the last row takes its place."""
        self._rows -= 1
        if row != self._rows:
            for layer in self.layers:
                layer.keys[row] = layer.keys[self._rows]
                layer.values[row] = layer.values[self._rows]

    def begin(self, positions: Tensor) -> None:
        """Make room for one token of each row after its `positions` (n,)."""
        length = int(positions.max()) + 1
        for layer in self.layers:
            layer.begin(positions, length)


class _SlotLayer(CacheLayerMixin):
    """Keys and values (R,H,P,D) of one layer."""

    keys: Tensor
    values: Tensor
    is_initialized: bool
    _positions: Tensor
    _each: Tensor
    _length: int

    def append(self, rows: int, keys: Tensor, values: Tensor) -> None:
        """Fill the slots after the first `rows` with keys and values (B,H,L,D)."""
        count, _, length, _ = keys.shape
        if not self.is_initialized:
            self.keys, self.values = (one.new_zeros(0, *one.shape[1:]) for one in (keys, values))
            self.is_initialized = True
        self._grow(rows, rows + count, length + 1)
        self.keys[rows : rows + count, :, :length] = keys
        self.values[rows : rows + count, :, :length] = values

    def begin(self, positions: Tensor, length: int) -> None:
        self._positions, self._length = positions, length
        self._each = torch.arange(len(positions), device=positions.device)
        self._grow(len(positions), len(positions), length)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write a token's keys and values (n,H,1,D) to each row; returns those of all (n,H,L,D)."""
        self.keys[self._each, :, self._positions] = key_states[:, :, 0]
        self.values[self._each, :, self._positions] = value_states[:, :, 0]
        used = len(self._each)
        return self.keys[:used, :, : self._length], self.values[:used, :, : self._length]

    def _grow(self, used: int, rows: int, length: int) -> None:
        """Have at least `rows` slots of `length` positions; the first `used` are kept."""
        slots, heads, room, _ = self.keys.shape
        if rows <= slots and length <= room:
            return
        rows = rows if rows > slots else slots
        room = room if length <= room else -(-length // _BLOCK) * _BLOCK
        for name in ("keys", "values"):
            old = getattr(self, name)
            # Zeros: what attention masks out still takes part, as a product with zero.
            new = old.new_zeros(rows, heads, room, old.shape[-1])
            new[:used, :, : old.shape[2]] = old[:used]
            setattr(self, name, new)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise NotImplementedError("`append` does this")

    def get_seq_length(self) -> int:
        return self._length - 1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._length, 0

    def get_max_length(self) -> int:
        return -1
