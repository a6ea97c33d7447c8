"""Token ids of captions as values of an item. Of what a source may hold, this alone needs
transformers: workers without captions do without.
"""

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from vlv.models.caption_tokens import caption_ids
from vlv.training.samples.source import Batch


@dataclass(frozen=True)
class CaptionTokens:
    """Makes ids for a caption decoder; a caption of more than `max_tokens` tokens is cut."""

    tokenizer: PreTrainedTokenizerFast
    max_tokens: int

    def item(self, caption: str) -> Batch:
        """Ids of one caption, padded to `max_tokens` so that captions stack, and its length."""
        ids, lengths = caption_ids(self.tokenizer, [caption], self.max_tokens)
        padded = torch.zeros(self.max_tokens, dtype=torch.long)
        padded[: ids.shape[1]] = ids[0]
        return {"caption_ids": padded, "caption_length": lengths[0]}
