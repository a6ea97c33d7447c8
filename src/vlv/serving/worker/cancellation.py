"""Items of a batch that nobody waits for any more, left out of every pass through a network.

A library's own loop, of beam search or of a sampler, counts its items from its beginning to its
end. So it goes on as if all were there; the network is given those alone that somebody waits for,
and a blank stands for what it would have said of the others, which nobody reads.

Shapes: N rows of a pass; an item has several, for its beams or for guidance.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.utils import ModelOutput

_UNLIKELY = -1e4


class Items(ABC):
    """The items of a running batch, and which of them are left."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._left: set[int] = set()
        self._rows = 0
        self._kept: list[int] | None = None

    def leave(self, at: int) -> None:
        """Nobody waits for the item at this place any more."""
        self._left.add(at)

    @property
    def deserted(self) -> bool:
        """Whether all are left."""
        return len(self._left) == self.count

    def narrow(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a pass without the rows of items that are left."""
        self._kept = None
        if not self._left:
            return args, kwargs
        tensors = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]
        self._rows = max(len(one) for one in tensors if one.ndim > 1)
        owners = self._owners(self._rows)
        self._kept = [row for row, owner in enumerate(owners) if owner not in self._left]
        return (
            tuple(self._cut(one) for one in args),
            {name: self._cut(value) for name, value in kwargs.items()},
        )

    def widen(self, output: Any, kwargs: dict[str, Any]) -> Any:
        """What came out of the pass that `narrow` prepared, with blanks for what it left out."""
        if self._kept is None:
            return output
        cache = kwargs.get("past_key_values")
        for layer in cache.layers if isinstance(cache, DynamicCache) else ():
            layer.keys, layer.values = self._spread(layer.keys), self._spread(layer.values)
        if isinstance(output, Tensor):
            return self._filled(output)
        if isinstance(output, ModelOutput):
            output["logits"] = self._filled(output["logits"])
            return output
        return tuple(self._filled(one) for one in output)

    def _cut(self, value: Any) -> Any:
        if isinstance(value, DynamicCache):
            value.batch_select_indices(torch.tensor(self._kept))
        elif isinstance(value, Tensor) and value.ndim > 1 and len(value) == self._rows:
            return value[self._kept]
        return value

    def _spread(self, states: Tensor) -> Tensor:
        wide = states.new_zeros(self._rows, *states.shape[1:])
        wide[self._kept] = states
        return wide

    def _filled(self, said: Tensor) -> Tensor:
        wide = self._spread(said)
        blank = [row for row in range(self._rows) if row not in set(self._kept or ())]
        wide[blank] = self._blank(said)
        return wide

    @abstractmethod
    def _owners(self, rows: int) -> Sequence[int]:
        """The place of the item that each row of a pass belongs to."""

    @abstractmethod
    def _blank(self, said: Tensor) -> Tensor:
        """A row in the place of what is not computed."""


class Pictures(Items):
    """Pictures that a sampler draws; with guidance, a pass has all without their c first."""

    def _owners(self, rows: int) -> Sequence[int]:
        return [row % self.count for row in range(rows)]

    def _blank(self, said: Tensor) -> Tensor:
        return torch.zeros_like(said[0])


class Searches(Items):
    """Searches of a language model, the beams of each side by side; one that is left ends soon."""

    def __init__(self, count: int, end: int) -> None:
        super().__init__(count)
        self._end = end

    def _owners(self, rows: int) -> Sequence[int]:
        return [row * self.count // rows for row in range(rows)]

    def _blank(self, said: Tensor) -> Tensor:
        blank = torch.full_like(said[0], _UNLIKELY)
        blank[..., self._end] = 0
        return blank
