"""Stage `language-model`: the stand-in for Qwen2.5, trained on the world's text. No pictures."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path

from torch import Tensor

from vlv.checkpoints.language_model import save_language_model
from vlv.models.caption_decoder import CaptionDecoder
from vlv.training.objectives.objective import Objective
from vlv.training.objectives.stage2 import trim
from vlv.training.samples.source import Batch

# Texts that are validated at once.
_BATCH = 64


class LanguageModelObjective(Objective):
    """Next-token cross-entropy on texts, each with its end token, validated on `held_out` ones."""

    def __init__(self, caption_decoder: CaptionDecoder, held_out: Sequence[str] = ()) -> None:
        super().__init__()
        self.caption_decoder = caption_decoder
        self.caption_decoder.psi.requires_grad_(False)
        self._held_out = held_out

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.caption_decoder.text_loss(*trim(batch)), {}

    def validate(self) -> dict[str, float]:
        total = 0.0
        for start in range(0, len(self._held_out), _BATCH):
            texts = self._held_out[start : start + _BATCH]
            ids, lengths = self.caption_decoder.tokenise(texts)
            loss = self.caption_decoder.text_loss(ids.to(self.device), lengths.to(self.device))
            total += len(texts) * float(loss)
        mean = total / len(self._held_out)
        return {"loss/short": mean, "perplexity/short": math.exp(mean)}

    @property
    def best_by(self) -> Collection[str]:
        return ["loss/short", "perplexity/short"]

    def export(self, folder: Path) -> None:
        decoder = self.caption_decoder
        save_language_model(decoder.lm, decoder.tokenizer, folder / "language_model")
