"""Captions without pictures, in a batch of pictures: at some of its rows the caption decoder reads
the c of a text.

Shapes: B batch, Q tokens of what is read, L of the c of a text, d their width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vlv.models.text_tower import TextTower
from vlv.training.samples.source import Batch


def read_texts(
    tower: TextTower, batch: Batch, read: Tensor, kept: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """What captions are read from (B,Q,d), with c of a text at the rows `of_text` of a batch that
    has texts, and which of its tokens count (B,Q), bool; None where all do.

    Every row is one of the same pass through the language model, on each process.
    """
    if "of_text" not in batch:
        return read, kept
    with torch.no_grad():
        text = tower.encode_ids(batch["text_ids"])
    of_text = batch["of_text"].unsqueeze(1)  # (B,1)
    tokens = _padded(text.tokens.to(read.dtype), read.shape[1])
    every = torch.where(of_text.unsqueeze(2), tokens, _padded(read, tokens.shape[1]))
    if kept is None and text.mask is None and text.tokens.shape[1] == read.shape[1]:
        return every, None
    valid = _all_of(text.tokens) if text.mask is None else text.mask.bool()
    kept = _all_of(read) if kept is None else kept
    length = every.shape[1]
    return every, torch.where(of_text, _longer(valid, length), _longer(kept, length))


def _all_of(tokens: Tensor) -> Tensor:
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)


def _padded(tokens: Tensor, length: int) -> Tensor:
    """Tokens (B,Q,d) with zeros at their end, up to `length` or as they are."""
    return F.pad(tokens, (0, 0, 0, max(length - tokens.shape[1], 0)))


def _longer(valid: Tensor, length: int) -> Tensor:
    return F.pad(valid, (0, length - valid.shape[1]))
