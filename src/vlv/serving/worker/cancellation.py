"""Cancellation of items of a running batch: networks no longer compute their rows.

A library's own loop (beam search, a diffusion sampler) keeps the number of its items from beginning
to end. So the loop continues as if all items were there. The network gets only the rows of active
items; placeholder rows that nobody reads replace the output for cancelled ones.

Shapes: N rows of a forward pass; an item has several rows, for its beams or for guidance.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.utils import ModelOutput

from vlv.models.lm_cache import take_rows

_UNLIKELY = -1e4
# The names of the input that has a row for each row of the output, where it is passed by name.
_BATCH = ("sample", "hidden_states", "input_ids", "inputs_embeds")
# Positions of tokens, the same for all rows: their number may happen to be that of the rows.
_WITHOUT_ROWS = ("img_ids", "txt_ids")


class BatchItems(ABC):
    """The items of a running batch, and which of them are cancelled."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._cancelled: set[int] = set()
        self._rows = 0
        self._active_rows: list[int] | None = None

    def cancel(self, index: int) -> None:
        """Cancel the item at this index."""
        self._cancelled.add(index)

    @property
    def all_cancelled(self) -> bool:
        """Whether every item is cancelled."""
        return len(self._cancelled) == self.count

    def drop_rows(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a forward pass without the rows of cancelled items."""
        self._active_rows = None
        if not self._cancelled:
            return args, kwargs
        batch = next(one for one in (*args, *map(kwargs.get, _BATCH)) if isinstance(one, Tensor))
        self._rows = len(batch)
        owners = self._owners(self._rows)
        self._active_rows = [
            row for row, owner in enumerate(owners) if owner not in self._cancelled
        ]
        return (
            tuple(self._select(one) for one in args),
            self._select(kwargs),
        )

    def restore_rows(self, output: Any, kwargs: dict[str, Any]) -> Any:
        """The output of the pass that `drop_rows` prepared, with placeholders in dropped rows."""
        if self._active_rows is None:
            return output
        cache = kwargs.get("past_key_values")
        if isinstance(cache, DynamicCache):
            places = {row: at for at, row in enumerate(self._active_rows)}
            take_rows(cache, [places.get(row, 0) for row in range(self._rows)])
        if isinstance(output, Tensor):
            return self._with_placeholders(output)
        if isinstance(output, ModelOutput):
            output["logits"] = self._with_placeholders(output["logits"])
            return output
        return tuple(self._with_placeholders(one) for one in output)

    def _select(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: one if name in _WITHOUT_ROWS else self._select(one)
                for name, one in value.items()
            }
        if isinstance(value, DynamicCache):
            take_rows(value, self._active_rows or [])
        elif isinstance(value, Tensor) and self._has_rows(value):
            return value[self._active_rows]
        return value

    def _has_rows(self, value: Tensor) -> bool:
        return value.ndim > 1 and len(value) == self._rows

    def _scatter(self, active: Tensor) -> Tensor:
        rows = active.new_zeros(self._rows, *active.shape[1:])
        rows[self._active_rows] = active
        return rows

    def _with_placeholders(self, active: Tensor) -> Tensor:
        rows = self._scatter(active)
        kept = set(self._active_rows or ())
        rows[[row for row in range(self._rows) if row not in kept]] = self._placeholder(active)
        return rows

    @abstractmethod
    def _owners(self, rows: int) -> Sequence[int]:
        """The index of the item that each row of a pass belongs to."""

    @abstractmethod
    def _placeholder(self, active: Tensor) -> Tensor:
        """The row that replaces an output that is not computed."""


class ImageItems(BatchItems):
    """Images; with guidance, a pass has the rows without c first, then those with c."""

    def _owners(self, rows: int) -> Sequence[int]:
        return [row % self.count for row in range(rows)]

    def _has_rows(self, value: Tensor) -> bool:
        # Denoisers of flows are given the timestep of each row.
        return value.ndim > 0 and len(value) == self._rows

    def _placeholder(self, active: Tensor) -> Tensor:
        return torch.zeros_like(active[0])


class BeamSearchItems(BatchItems):
    """Beam searches, each with adjacent beams. A placeholder makes the end token most likely, so
    that the search loop soon counts a cancelled search as finished.
    """

    def __init__(self, count: int, end_token: int) -> None:
        super().__init__(count)
        self._end_token = end_token

    def _owners(self, rows: int) -> Sequence[int]:
        return [row * self.count // rows for row in range(rows)]

    def _placeholder(self, active: Tensor) -> Tensor:
        row = torch.full_like(active[0], _UNLIKELY)
        row[..., self._end_token] = 0
        return row
