"""Attention by plain matrix products, for CPUs whose fused kernel is slow.

Shapes: B batch, H heads, L queries, S keys, d width of a head.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class PlainAttention:
    """A processor of diffusers, with plain matrix products where it calls the fused kernel."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the processor returns."""
        with _PlainProducts():
            return self._processor(*args, **kwargs)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What every query reads (B,H,L,d): softmax of query (B,H,L,d) and key (B,H,S,d) over the root
    of d, on value (B,H,S,d).
    """
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    read: Tensor = scores.softmax(-1) @ value
    return read


class _PlainProducts(TorchFunctionMode):
    """Inside, the fused kernel is replaced where every query sees every key."""

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func is F.scaled_dot_product_attention and _sees_all(**options):
            return attention(*args)
        return func(*args, **options)


def _sees_all(
    attn_mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False
) -> bool:
    return attn_mask is None and dropout_p == 0.0 and not is_causal
