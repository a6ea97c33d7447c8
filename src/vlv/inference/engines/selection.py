"""The next token of many rows, from their logits: the most likely one, or a draw.

Each draw takes one number of its row's own generator, so that a row's tokens do not depend on the
rows beside it, except through rounding in their logits.

Shapes: n rows, V the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vlv.inference.engines.engine import Finish, NewTokens
from vlv.inference.engines.sampling import Sampling, TokenRules
from vlv.models.caption_decoder import COLDEST
from vlv.models.caption_tokens import spellings

# Tokens among which top_p is sought before all are sorted; a vocabulary is a hundred times larger.
_LIKELIEST = 1024


class TokenSelector:
    """Selects the tokens of one sequence; `written` counts those that it has already."""

    def __init__(
        self, sampling: Sampling, sequence: int, written: int, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        self.sampling = sampling
        self._end_token = int(tokenizer.eos_token_id)
        self._banned = spellings(tokenizer, sampling.banned_words)
        self._random = np.random.default_rng([sampling.seed, sequence])
        self._random.random(written)

    def restrict(self, logits: Tensor, ids: Sequence[int]) -> None:
        """Rule out what cannot follow the new tokens `ids`; logits (V,) are changed in place."""
        if len(ids) < self.sampling.min_new_tokens:
            logits[self._end_token] = -torch.inf
        for banned in self._banned:
            before = len(banned) - 1
            if before == 0 or list(ids[-before:]) == banned[:-1]:
                logits[banned[-1]] = -torch.inf
        _penalize(logits, ids, self.sampling.rules)

    def number(self) -> float:
        """The number in [0,1) that decides the next draw."""
        return float(self._random.random())


@dataclass
class Row:
    """One sequence of a request whose tokens are selected here; `ids` are its new ones."""

    key: int
    sequence: int
    selector: TokenSelector
    ids: list[int]


def write_next(rows: Sequence[Row], logits: Tensor, end_token: int) -> list[NewTokens]:
    """Give each row its next token, by logits (n,V) in float32, which are changed in place.

    Returns an event for each row. One with a `finish` is the last of its row.
    """
    tokens = select([row.selector for row in rows], logits, [row.ids for row in rows])
    events = []
    for row, token in zip(rows, tokens, strict=True):
        ended = token == end_token
        if not ended:
            row.ids.append(token)
        full = len(row.ids) >= row.selector.sampling.max_new_tokens
        finish: Finish | None = "end" if ended else "length" if full else None
        events.append(NewTokens(row.key, row.sequence, () if ended else (token,), finish))
    return events


def select(
    selectors: Sequence[TokenSelector], logits: Tensor, ids: Sequence[Sequence[int]]
) -> list[int]:
    """The next token of each row, by logits (n,V) in float32, which are changed in place.

    `ids` are the new tokens that the rows have.
    """
    for selector, row, written in zip(selectors, logits, ids, strict=True):
        selector.restrict(row, written)
    tokens: list[int] = logits.argmax(-1).tolist()
    drawn = [at for at, one in enumerate(selectors) if one.sampling.temperature > COLDEST]
    if drawn:
        some = [selectors[at] for at in drawn]
        device = logits.device
        temperatures = torch.tensor([one.sampling.temperature for one in some], device=device)
        top_p = torch.tensor(
            [one.sampling.top_p for one in some], dtype=torch.double, device=device
        )
        numbers = torch.tensor([one.number() for one in some], dtype=torch.double, device=device)
        scaled = logits[drawn] / temperatures.unsqueeze(1)
        for row, one in zip(scaled, some, strict=True):
            _keep_candidates(row, one.sampling.rules)
        found = _draw(scaled, top_p, numbers)
        for at, token in zip(drawn, found, strict=True):
            tokens[at] = token
    return tokens


def _penalize(logits: Tensor, ids: Sequence[int], rules: TokenRules) -> None:
    """Lower the logits (V,) of tokens of the caption that were written, in place; what stands
    before them are embeddings, no tokens.

    `repetition_penalty` divides positive logits and multiplies negative ones (CTRL,
    arXiv:1909.05858, section 4.1). `presence_penalty` is subtracted once, and `frequency_penalty`
    once for each time that the token was written.
    """
    if not ids:
        return
    written = torch.tensor(list(ids), device=logits.device)
    if rules.repetition_penalty != 1.0:
        found = logits[written]
        logits[written] = torch.where(
            found > 0, found / rules.repetition_penalty, found * rules.repetition_penalty
        )
    if rules.presence_penalty or rules.frequency_penalty:
        tokens, counts = written.unique(return_counts=True)
        logits[tokens] -= rules.presence_penalty + rules.frequency_penalty * counts


def _keep_candidates(logits: Tensor, rules: TokenRules) -> None:
    """Set logits (V,) of tokens that `min_p` or `top_k` excludes to minus infinity, in place.

    `min_p` keeps tokens of at least so large a share of the most likely token's probability.
    """
    if rules.min_p:
        shares = logits.double().softmax(-1)
        logits.masked_fill_(shares < rules.min_p * shares.max(), -torch.inf)
    if 0 < rules.top_k < len(logits):
        least = logits.topk(rules.top_k).values[-1]
        logits.masked_fill_(logits < least, -torch.inf)


def _draw(logits: Tensor, top_p: Tensor, numbers: Tensor) -> list[int]:
    """The token at `numbers` (n,) of the most likely ones that together reach top_p (n,)."""
    probabilities = logits.softmax(-1)  # (n,V)
    found = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    cut = top_p < 1
    if bool(cut.any()):
        likely, tokens = _most_likely(probabilities[cut], top_p[cut])
        at = _places(likely, numbers[cut])
        found[cut] = tokens.gather(1, at.unsqueeze(1)).squeeze(1)
    if not bool(cut.all()):
        found[~cut] = _places(probabilities[~cut].double(), numbers[~cut])
    drawn: list[int] = found.tolist()
    return drawn


def _most_likely(probabilities: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (n,k), zero where others together reach top_p, and their tokens (n,k)."""
    likely, tokens = probabilities.topk(min(_LIKELIEST, probabilities.shape[-1]))
    if bool((likely.double().sum(-1) < top_p).any()):
        likely, tokens = probabilities.sort(descending=True)
    likely = likely.double()
    before = likely.cumsum(-1) - likely
    return likely.masked_fill(before >= top_p.unsqueeze(1), 0), tokens


def _places(probabilities: Tensor, numbers: Tensor) -> Tensor:
    """Where each number (n,) falls among the cumulated probabilities (n,k) of its row."""
    reached = probabilities.cumsum(-1)
    whole = reached[:, -1:]
    at = torch.searchsorted(reached, numbers.unsqueeze(1) * whole, right=True)
    # Rounding may put a number beyond the last token that is possible.
    return at.squeeze(1).minimum((reached < whole).sum(-1))
