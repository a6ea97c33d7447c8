"""Penalties and candidates: what a request may ask of the next token.

Penalties count the tokens of the caption only. What stands before it are embeddings, no tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vlv.inference.engines.sampling import TokenRules


def penalize(logits: Tensor, ids: Sequence[int], rules: TokenRules) -> None:
    """Lower the logits (V,) of tokens that were written, in place.

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


def keep_candidates(logits: Tensor, rules: TokenRules) -> None:
    """Set logits (V,) of tokens that `min_p` or `top_k` excludes to minus infinity, in place.

    `min_p` keeps tokens of at least so large a share of the most likely token's probability.
    """
    if rules.min_p:
        shares = logits.double().softmax(-1)
        logits.masked_fill_(shares < rules.min_p * shares.max(), -torch.inf)
    if 0 < rules.top_k < len(logits):
        least = logits.topk(rules.top_k).values[-1]
        logits.masked_fill_(logits < least, -torch.inf)
