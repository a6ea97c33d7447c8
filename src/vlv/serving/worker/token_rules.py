"""What a request may ask of the next token: penalties, candidates, and texts that end a caption.

Penalties count the tokens of the caption only. What stands before it are embeddings, no tokens.
"""

import torch
from torch import Tensor

from vlv.serving.worker.jobs import TokenRules


def penalize(logits: Tensor, ids: list[int], rules: TokenRules) -> None:
    """Lower the logits (V,) of tokens that were written, in place.

    `repetition_penalty` divides positive logits and multiplies negative ones (CTRL,
    arXiv:1909.05858, section 4.1). `presence_penalty` is subtracted once, and `frequency_penalty`
    once for each time that the token was written.
    """
    if not ids:
        return
    written = torch.tensor(ids, device=logits.device)
    if rules.repetition_penalty != 1.0:
        found = logits[written]
        logits[written] = torch.where(
            found > 0, found / rules.repetition_penalty, found * rules.repetition_penalty
        )
    if rules.presence_penalty or rules.frequency_penalty:
        tokens, counts = written.unique(return_counts=True)
        logits[tokens] -= rules.presence_penalty + rules.frequency_penalty * counts


def keep_candidates(logits: Tensor, rules: TokenRules) -> Tensor:
    """The logits (V,) with minus infinity for tokens that `min_p` or `top_k` excludes.

    `min_p` keeps tokens of at least so large a share of the most likely token's probability.
    """
    if rules.min_p:
        shares = logits.double().softmax(-1)
        logits = logits.masked_fill(shares < rules.min_p * shares.max(), -torch.inf)
    if 0 < rules.top_k < len(logits):
        least = logits.topk(rules.top_k).values[-1]
        logits = logits.masked_fill(logits < least, -torch.inf)
    return logits


class StopTexts:
    """Texts before which a caption ends."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        self._texts = texts

    def end_of(self, text: str) -> int | None:
        """Where the first stop text starts; None if the text has none."""
        found = [at for one in self._texts if (at := text.find(one)) >= 0]
        return min(found, default=None)

    def end_of_certain(self, text: str) -> int:
        """Where the end of the text starts that may be the beginning of a stop text."""
        open_lengths = [
            length
            for one in self._texts
            for length in range(1, len(one))
            if text.endswith(one[:length])
        ]
        return len(text) - max(open_lengths, default=0)

    def cut(self, text: str) -> str:
        """The text before the first stop text."""
        end = self.end_of(text)
        return text if end is None else text[:end].rstrip()
