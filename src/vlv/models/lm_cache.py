"""What a language model keeps of the text before the next token, row by row.

Layers of attention keep keys and values of every position; layers of linear attention and of
convolutions keep a state of fixed size.
"""

import inspect
from collections.abc import Sequence

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from vlv.errors import ConfigError

# They take a cache, and keep a part of their states in their layers themselves.
_STATES_IN_LAYERS = ("recurrent_gemma",)


def fresh_cache(lm: PreTrainedModel) -> DynamicCache:
    """An empty cache with the layers of a language model.

    Raises ConfigError for one that keeps its states elsewhere: it would leave the cache empty, and
    read every token as the first one.
    """
    takes_cache = "past_key_values" in inspect.signature(lm.forward).parameters
    keeps_all = takes_cache and lm.config.model_type not in _STATES_IN_LAYERS
    if not (keeps_all and lm._supports_default_dynamic_cache()):
        raise ConfigError(
            f"language models of the type {lm.config.model_type} keep their states in a cache of "
            "their own, with which no captions can be written; take one that uses the DynamicCache "
            "of transformers, such as Qwen, Llama or Gemma"
        )
    return DynamicCache(config=lm.config)


def reads_by_position(lm: PreTrainedModel) -> bool:
    """Whether every layer keeps keys and values, and positions can be given: only then can texts
    stand in one row, or begin at different times, under a mask.

    Raises ConfigError as `fresh_cache`.
    """
    usual = (DynamicLayer, DynamicSlidingWindowLayer)
    keep_keys = all(type(layer) in usual for layer in fresh_cache(lm).layers)
    return keep_keys and "position_ids" in inspect.signature(lm.forward).parameters


def take_rows(cache: DynamicCache, rows: Sequence[int]) -> None:
    """Put these rows, of which some may occur several times, in place of all."""
    # Layers of linear attention have no `batch_select_indices` and `batch_repeat_interleave`.
    cache.reorder_cache(torch.tensor(rows))
