"""How many captions an engine writes at once, how long they may be, and the memory for it.

For engines that set the memory of keys and values aside when they start.
"""

from dataclasses import dataclass
from typing import Any

import torch

from vlv.checkpoints.memory import cache_values
from vlv.errors import ConfigError
from vlv.inference.engines.sampling import Sampling

_BLOCK = 16  # positions that vLLM gives out at once


@dataclass(frozen=True)
class CacheSize:
    """What the cache of keys and values may take, for so many captions at once."""

    rows: int
    positions: int
    """Of one caption at most."""
    bytes: int

    @classmethod
    def of(
        cls, config: Any, dtype: torch.dtype, free: int, *, rows: int, each: int, longest: int
    ) -> "CacheSize":
        """Room for at most `rows` captions of `each` positions, in at most half of the `free` bytes
        (weights and working memory come too); one may have up to `longest` positions.

        config: the language model's, which limits the positions.
        """
        position = cache_values(config, 1, 1) * dtype.itemsize
        longest = min(config.max_position_embeddings, longest)
        each = min(longest, each)
        rows = max(1, min(rows, free // 2 // (position * each)))
        # No engine starts with less than one caption of the longest kind; vLLM keeps a block back.
        cached = max(rows * each, longest) + 2 * _BLOCK
        return cls(rows, longest, position * cached)


def check_length(prompt: int, sampling: Sampling, positions: int) -> None:
    """Raise ConfigError for a caption that would not fit the positions of a language model."""
    if prompt >= positions:
        raise ConfigError(
            f"this engine has {positions} positions, which leaves none for a caption behind "
            f"{prompt} embeddings; start it with more, or use fewer embeddings"
        )
    if prompt + sampling.max_new_tokens > positions:
        raise ConfigError(
            f"captions of {sampling.max_new_tokens} tokens behind {prompt} embeddings need "
            f"{prompt + sampling.max_new_tokens} positions, and this engine has {positions}; set "
            f"--max-new-tokens to at most {positions - prompt}"
        )
