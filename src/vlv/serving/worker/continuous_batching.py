"""Captions written together, token by token, that begin and end at different times.

transformers' own continuous batching takes token ids only, and a caption begins with e = psi(c).
So this is `generate` for one beam, written out: every row keeps its own length, rows are padded on
the left, and what a row writes does not depend on the others.

Shapes: B rows, L the longest row's positions, Q the length of c, V the vocabulary.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from vlv.models.caption_decoder import COLDEST, CaptionDecoder


@dataclass
class Row:
    """One caption in the making; `ids` may begin with what was written before."""

    id: int
    max_new_tokens: int
    min_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    ids: list[int] = field(default_factory=list)
    ended: bool = False
    positions: int = 0

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self._random.random(len(self.ids))

    @property
    def finished(self) -> bool:
        """Whether nothing more will be written."""
        return self.ended or len(self.ids) >= self.max_new_tokens

    def write(self, scores: Tensor, end: int) -> None:
        """Choose the next token by its scores (V,), one random number a token."""
        if len(self.ids) < self.min_new_tokens:
            scores[end] = -torch.inf
        if self.temperature == 0:
            token = int(scores.argmax())
        else:
            cooled = scores / max(self.temperature, COLDEST)
            token = _draw(cooled, self.top_p, self._random.random())
        self.ended = token == end
        if not self.ended:
            self.ids.append(token)


class CaptionBatch:
    """The rows that are being written, and what the language model keeps of them."""

    def __init__(self, caption_decoder: CaptionDecoder) -> None:
        self._caption_decoder = caption_decoder
        self._lm = caption_decoder.lm
        self._end = int(caption_decoder.tokenizer.eos_token_id)
        self._cache = DynamicCache(config=self._lm.config)
        self.rows: list[Row] = []

    @torch.inference_mode()
    def join(self, rows: list[Row], c: Tensor) -> None:
        """Read c (B,Q,d_T) and write the next token of B rows with equally many; they stay here."""
        e = self._caption_decoder.psi(c).to(self._lm.dtype)
        ids = torch.tensor([row.ids for row in rows], dtype=torch.long, device=e.device)
        inputs = torch.cat([e, self._lm.get_input_embeddings()(ids)], dim=1)
        cache = DynamicCache(config=self._lm.config)
        scores = self._lm(
            inputs_embeds=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1
        ).logits
        for row, its in zip(rows, scores[:, -1].float(), strict=True):
            row.positions = inputs.shape[1]
            row.write(its, self._end)
        self._append(cache)
        self.rows += rows

    @torch.inference_mode()
    def step(self) -> None:
        """Write the next token of every row."""
        device = self._lm.device
        last = torch.tensor([row.ids[-1:] for row in self.rows], device=device)
        positions = torch.tensor([row.positions for row in self.rows], device=device)
        length = int(positions.max()) + 1
        mask = torch.arange(length, device=device) >= (length - 1 - positions).unsqueeze(1)
        scores = self._lm(
            input_ids=last,
            attention_mask=mask.long(),
            position_ids=positions.unsqueeze(1),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        for row, its in zip(self.rows, scores[:, -1].float(), strict=True):
            row.positions += 1
            row.write(its, self._end)

    def leave(self, ids: set[int]) -> None:
        """Forget the rows with these ids."""
        keep = [at for at, row in enumerate(self.rows) if row.id not in ids]
        if len(keep) == len(self.rows):
            return
        self.rows = [self.rows[at] for at in keep]
        length = max((row.positions for row in self.rows), default=0)
        for layer in self._cache.layers:
            start = layer.get_seq_length() - length
            layer.keys = layer.keys[keep, :, start:]
            layer.values = layer.values[keep, :, start:]
        if not self.rows:
            self._cache = DynamicCache(config=self._lm.config)

    def _append(self, other: DynamicCache) -> None:
        """Put other rows under those of the cache, the shorter padded on the left."""
        if not self.rows:
            self._cache = other
            return
        for mine, new in zip(self._cache.layers, other.layers, strict=True):
            length = max(mine.get_seq_length(), new.get_seq_length())
            mine.keys = torch.cat([_padded(mine.keys, length), _padded(new.keys, length)])
            mine.values = torch.cat([_padded(mine.values, length), _padded(new.values, length)])


def _padded(states: Tensor, length: int) -> Tensor:
    return F.pad(states, (0, 0, length - states.shape[-2], 0))


def _draw(scores: Tensor, top_p: float, number: float) -> int:
    """The token at `number` in [0,1) of the likeliest ones that together reach top_p."""
    shares, tokens = scores.double().softmax(-1).sort(descending=True)
    before = shares.cumsum(-1) - shares
    kept = shares[before < top_p]
    at = torch.searchsorted(kept.cumsum(-1), number * float(kept.sum()), right=True)
    return int(tokens[min(int(at), len(kept) - 1)])


class Text:
    """The text of a growing list of tokens, told in pieces that together are the whole."""

    def __init__(self, caption_decoder: CaptionDecoder) -> None:
        self._tokenizer = caption_decoder.tokenizer
        self._told = 0

    def whole(self, ids: list[int]) -> str:
        """The text of a caption that is complete."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()

    def next(self, ids: list[int], finished: bool) -> str:
        """What is certain by now and was not told yet: no half characters, no last blanks."""
        text = self.whole(ids)
        if not finished:
            text = text.rstrip("\ufffd").rstrip()
        piece = text[self._told :]
        self._told = max(self._told, len(text))
        return piece
