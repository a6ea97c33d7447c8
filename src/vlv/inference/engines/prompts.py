"""What stands before and behind an engine: psi makes its prompts, the tokenizer reads its tokens.

The language model may be in another process, so this holds none.

Shapes: B images, Q length of c, d_T width of c, d_LM width of the language model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.caption_tokens import caption_of, start_ids
from vlv.models.outputs import Caption


@dataclass(frozen=True)
class Prompts:
    """psi, the tokenizer, and the precision in which the language model takes e."""

    psi: nn.Module
    tokenizer: PreTrainedTokenizerFast
    dtype: torch.dtype

    @classmethod
    def of(cls, caption_decoder: CaptionDecoder) -> "Prompts":
        """Those of a caption decoder that is in memory."""
        lm_dtype = caption_decoder.lm.dtype
        return cls(caption_decoder.psi, caption_decoder.tokenizer, lm_dtype)

    @torch.inference_mode()
    def embed(self, c: Tensor) -> Tensor:
        """Prompt embeddings e (B,Q,d_LM) of c (B,Q,d_T)."""
        e: Tensor = self.psi(c).to(self.dtype)
        return e

    def caption(self, ids: Sequence[int], ended: bool, forced_start: str = "") -> Caption:
        """The caption of the new tokens `ids` after a forced start."""
        start = start_ids(self.tokenizer, forced_start)
        return caption_of(self.tokenizer, ids, ended, start)
