"""Captions that are written in one batch, token by token, and that start and end at any time.

The continuous batching of transformers takes token ids only, and a caption starts with the
embeddings e = psi(c). So this is `generate` for one beam, written out: every row has its own
length, rows are padded on the left, and the tokens of a row do not depend on other rows.

Shapes: B rows, L the longest row's positions, Q the length of c, V the vocabulary.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from vlv.models.caption_decoder import COLDEST, CaptionDecoder
from vlv.serving.worker.jobs import TokenRules
from vlv.serving.worker.token_rules import StopTexts, keep_candidates, penalize


@dataclass
class Row:
    """One caption in progress; `ids` may start with tokens that were written before."""

    id: int
    max_new_tokens: int
    min_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    ids: list[int] = field(default_factory=list)
    rules: TokenRules = field(default_factory=TokenRules)
    ended: bool = False
    positions: int = 0

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self._random.random(len(self.ids))

    @property
    def finished(self) -> bool:
        """Whether no more tokens will be written."""
        return self.ended or len(self.ids) >= self.max_new_tokens

    def write(self, logits: Tensor, end_token: int) -> None:
        """Select the next token by its logits (V,), with one random number a token."""
        if len(self.ids) < self.min_new_tokens:
            logits[end_token] = -torch.inf
        penalize(logits, self.ids, self.rules)
        if self.temperature == 0:
            token = int(logits.argmax())
        else:
            scaled = keep_candidates(logits / max(self.temperature, COLDEST), self.rules)
            token = _sample(scaled, self.top_p, self._random.random())
        self.ended = token == end_token
        if not self.ended:
            self.ids.append(token)


class CaptionBatch:
    """The rows in progress, and the language model's cache of them."""

    def __init__(self, caption_decoder: CaptionDecoder) -> None:
        self._caption_decoder = caption_decoder
        self._lm = caption_decoder.lm
        self._end_token = int(caption_decoder.tokenizer.eos_token_id)
        self._cache = DynamicCache(config=self._lm.config)
        self.rows: list[Row] = []

    @torch.inference_mode()
    def add(self, rows: list[Row], c: Tensor) -> None:
        """Add B rows with equally many tokens: prefill with c (B,Q,d_T), write the next token."""
        e = self._caption_decoder.psi(c).to(self._lm.dtype)
        ids = torch.tensor([row.ids for row in rows], dtype=torch.long, device=e.device)
        inputs = torch.cat([e, self._lm.get_input_embeddings()(ids)], dim=1)
        cache = DynamicCache(config=self._lm.config)
        logits = self._lm(
            inputs_embeds=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1
        ).logits
        for row, row_logits in zip(rows, logits[:, -1].float(), strict=True):
            row.positions = inputs.shape[1]
            row.write(row_logits, self._end_token)
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
        logits = self._lm(
            input_ids=last,
            attention_mask=mask.long(),
            position_ids=positions.unsqueeze(1),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        for row, row_logits in zip(self.rows, logits[:, -1].float(), strict=True):
            row.positions += 1
            row.write(row_logits, self._end_token)

    def remove(self, ids: set[int]) -> None:
        """Remove the rows with these ids, and their part of the cache."""
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

    def _append(self, new: DynamicCache) -> None:
        """Append rows to the cache; the shorter rows are padded on the left."""
        if not self.rows:
            self._cache = new
            return
        for old_layer, new_layer in zip(self._cache.layers, new.layers, strict=True):
            length = max(old_layer.get_seq_length(), new_layer.get_seq_length())
            old_layer.keys = _concatenated(old_layer.keys, new_layer.keys, length)
            old_layer.values = _concatenated(old_layer.values, new_layer.values, length)


def _concatenated(old: Tensor, new: Tensor, length: int) -> Tensor:
    return torch.cat([F.pad(one, (0, 0, length - one.shape[-2], 0)) for one in (old, new)])


def _sample(logits: Tensor, top_p: float, number: float) -> int:
    """The token at `number` in [0,1) of the most likely ones that together reach top_p."""
    shares, tokens = logits.double().softmax(-1).sort(descending=True)
    before = shares.cumsum(-1) - shares
    kept = shares[before < top_p]
    at = torch.searchsorted(kept.cumsum(-1), number * float(kept.sum()), right=True)
    return int(tokens[min(int(at), len(kept) - 1)])


class TextStreamer:
    """The text of a growing list of tokens, in pieces that together are the whole text.

    `stopped` says whether the text reached one of the stop texts, before which it ends.
    """

    def __init__(self, caption_decoder: CaptionDecoder, stop: tuple[str, ...] = ()) -> None:
        self._caption_decoder = caption_decoder
        self._stop = StopTexts(stop)
        self._streamed = 0
        self.stopped = False

    def next(self, ids: list[int], finished: bool) -> str:
        """The text that is final and not streamed yet: no incomplete characters, no trailing
        spaces, and nothing that may become a stop text.
        """
        text = self._caption_decoder.text_of(ids)
        end = self._stop.end_of(text)
        self.stopped = end is not None
        if end is not None:
            text = text[:end].rstrip()
        elif not finished:
            text = text.rstrip("\ufffd")
            text = text[: self._stop.end_of_certain(text)].rstrip()
        piece = text[self._streamed :]
        self._streamed = max(self._streamed, len(text))
        return piece
