"""Which embeddings of two images make one picture (paper, figure 6)."""

from typing import Literal, get_args

import torch
from torch import Tensor

from vlv.errors import ConfigError

Order = Literal["leading", "trailing"]
"""Which embeddings of the second image are kept: its leading ones, which take the places after
those of the first, as in the paper; or its trailing ones, which stay at their own places where all
places are taken."""


def joined(z_a: Tensor, z_b: Tensor, keep_a: int, keep_b: int, order: Order = "leading") -> Tensor:
    """(B, N+M, d): z[:N] of a followed by the leading or trailing M of b's z; z_a, z_b (B,Q,d).

    Raises ConfigError for another order.
    """
    if order not in get_args(Order):
        raise ConfigError(f"order is one of {', '.join(get_args(Order))}, not {order!r}")
    first = 0 if order == "leading" else z_b.shape[1] - keep_b
    return torch.cat([z_a[:, :keep_a], z_b[:, first : first + keep_b]], dim=1)
