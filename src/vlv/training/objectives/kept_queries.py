"""Embeddings that a step hides, so that those that are kept do without them.

The text tower is causal (`TextTower.causal`): the first N tokens of c = T(z) are T(z[:, :N]). So
the encoder and the tower run once on all of z, and a prefix of c is all that the boxes right of it
have to be shown. In the U-Net attention does not see the other tokens. The caption decoder reads
the kept ones alone, at the positions that they have without the others.

Shapes: B batch, Q length of z and c.
"""

from dataclasses import replace

from torch import Tensor

from vlv.models.conditioning import Conditioning
from vlv.training.samples.source import Batch


def kept_queries(batch: Batch) -> Tensor | None:
    """Which embeddings (B,Q), bool, the samples of a batch keep; None where all are kept."""
    return batch.get("kept_queries")


def visible(c: Conditioning, kept: Tensor | None) -> Conditioning:
    """The conditioning in which attention sees the kept tokens (B,Q) only."""
    if kept is None:
        return c
    return replace(c, mask=kept if c.mask is None else c.mask.bool() & kept)
