"""The passes of a language model over rows that start and end at any time.

Rows whose layers all keep keys and values are read together. A layer of linear attention or of
convolutions keeps one state a row, which has no positions that could be masked: where there is one,
or where rows cannot have different positions (ALiBi), every row has a cache and a pass of its own.

Shapes: n rows in progress, B rows that begin together, P positions of a prompt, d_LM the language
model's width, L the longest row's positions, V the vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from typing import cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from vlv.inference.engines.cache import SlotCache
from vlv.models.lm_cache import fresh_cache, reads_by_position


class RowPasses(ABC):
    """Reads prompts and tokens of rows, and keeps what later passes need of them.

    positions: what every layer looks back on; None for all.
    """

    positions: int | None = None

    @abstractmethod
    def begin(self, prompts: Tensor, copies: Sequence[int]) -> Tensor:
        """Read prompts (B,P,d_LM), and add copies[i] rows of prompt i behind the others; logits
        (B,V) of the next tokens.
        """

    @abstractmethod
    def next(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Read one token (n,1) of every row, which stands behind its `positions` (n,); logits
        (n,V) of the next ones.
        """

    @abstractmethod
    def remove(self, row: int) -> None:
        """Forget a row; the last one takes its place."""

    @abstractmethod
    def clear(self) -> None:
        """Forget all rows, and free their memory."""


def passes_of(lm: PreTrainedModel) -> RowPasses:
    """The passes that the layers of a language model allow.

    Raises ConfigError for one that keeps its states in a cache of its own.
    """
    if not reads_by_position(lm):
        return _SeparateRows(lm)
    windows = [cast(int, getattr(one, "sliding_window", None)) for one in fresh_cache(lm).layers]
    return _SharedRows(lm, min((window for window in windows if window), default=None))


class _SharedRows(RowPasses):
    """One pass for all rows, over keys and values in slots."""

    def __init__(self, lm: PreTrainedModel, positions: int | None) -> None:
        self.positions = positions
        self._lm = lm
        self._cache = SlotCache()

    def begin(self, prompts: Tensor, copies: Sequence[int]) -> Tensor:
        cache = fresh_cache(self._lm)
        logits = _prompt_logits(self._lm, prompts, cache)
        self._cache.append(cache, copies)
        return logits

    def next(self, tokens: Tensor, positions: Tensor) -> Tensor:
        self._cache.begin(positions)
        logits: Tensor = self._lm(
            input_ids=tokens,
            attention_mask=self._mask(positions),
            position_ids=positions.unsqueeze(1),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits

    def remove(self, row: int) -> None:
        self._cache.remove(row)

    def clear(self) -> None:
        self._cache = SlotCache()

    def _mask(self, positions: Tensor) -> Tensor:
        """What is added to the scores of attention (n,1,1,L): each row sees its own positions."""
        length = int(positions.max()) + 1
        hidden = torch.arange(length, device=positions.device) > positions.unsqueeze(1)
        mask = torch.zeros(hidden.shape, dtype=self._lm.dtype, device=positions.device)
        mask.masked_fill_(hidden, torch.finfo(mask.dtype).min)
        return mask[:, None, None]


class _SeparateRows(RowPasses):
    """A pass for each row, over a cache of its own."""

    def __init__(self, lm: PreTrainedModel) -> None:
        self._lm = lm
        self._caches: list[DynamicCache] = []

    def begin(self, prompts: Tensor, copies: Sequence[int]) -> Tensor:
        begun: list[DynamicCache] = []
        logits = []
        for prompt, count in zip(prompts.split(1), copies, strict=True):
            cache = fresh_cache(self._lm)
            logits.append(_prompt_logits(self._lm, prompt, cache))
            begun += [cache, *(deepcopy(cache) for _ in range(count - 1))]
        self._caches += begun  # all or none, should memory run out
        return torch.cat(logits)

    def next(self, tokens: Tensor, positions: Tensor) -> Tensor:
        logits = [
            self._lm(
                input_ids=token,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            for token, cache in zip(tokens.split(1), self._caches, strict=True)
        ]
        return torch.cat(logits)

    def remove(self, row: int) -> None:
        last = self._caches.pop()
        if row < len(self._caches):
            self._caches[row] = last

    def clear(self) -> None:
        self._caches = []


def _prompt_logits(lm: PreTrainedModel, prompts: Tensor, cache: DynamicCache) -> Tensor:
    """Read prompts (B,P,d_LM) into an empty cache; logits (B,V) of the next tokens."""
    logits: Tensor = lm(
        inputs_embeds=prompts, past_key_values=cache, use_cache=True, logits_to_keep=1
    ).logits[:, -1]
    return logits
