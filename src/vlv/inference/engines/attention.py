"""Attention of a token step where several heads of queries share one of keys and values.

transformers up to 5.19 copies keys and values for every head of queries wherever there is a mask,
which takes longer than all matrix products of the step together when there are many rows
(docs/engines.md). Here the heads that share keys are computed as positions of one head.

Shapes: n rows, H heads of keys and values, G heads of queries for each, L positions, D width of a
head.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "sdpa_shared_keys"


def share_keys(network: PreTrainedModel) -> None:
    """Have a network with fused attention compute its token steps without copies of keys."""
    if network.config._attn_implementation == "sdpa":
        network.set_attn_implementation(_NAME)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Of one query a row: query (n,HG,1,D), key and value (n,H,L,D), mask (n,1,1,L) of what is
    added, gives (n,1,HG,D). Everything else is left to the library.
    """
    rows, heads, length, width = query.shape
    shared = heads // key.shape[1]
    special = any(kwargs.get(name) is not None for name in ("softcap", "position_bias"))
    if length > 1 or shared == 1 or attention_mask is None or special:
        return sdpa_attention_forward(module, query, key, value, attention_mask, *args, **kwargs)
    found = F.scaled_dot_product_attention(
        query.reshape(rows, -1, shared, width),
        key,
        value,
        attn_mask=attention_mask,
        scale=kwargs.get("scaling"),
    )
    return found.reshape(rows, 1, heads, -1), None


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)
