"""Preferences between words: the caption decoder learns which of two words a picture supports at a
place of a caption, and to write the captions of pairs beside it. The encoder is frozen, so that the
z that was judged stays the one that is read.

Shapes: B batch, L longest caption of the batch, P preferences of a caption, V tokens.
"""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from vlv.models.caption_decoder import token_losses
from vlv.models.config import CaptionsFrom
from vlv.training.objectives.encoding import StageBoxes
from vlv.training.objectives.stage2 import Stage2Objective, trim
from vlv.training.samples.held_out import HeldOut
from vlv.training.samples.source import Batch

PreferenceLoss = Literal["dpo", "likelihood"]


class PreferenceObjective(Stage2Objective):
    """A loss of each preference, plus the cross-entropy of captions that are learned as they are.

    Both words follow the same text, so that only their token counts. loss: `dpo` is direct
    preference optimization (Rafailov et al., arXiv 2305.18290, equation 7) with the strength
    `beta`, against the model that wrote the captions, whose log-odds of the two words are in the
    batch; `likelihood` is the cross-entropy of the better word. A row's preferences count as one.
    """

    def __init__(
        self,
        boxes: StageBoxes,
        trainable: Sequence[str],
        held_out: HeldOut | None = None,
        *,
        loss: PreferenceLoss,
        beta: float,
        weight: float,
        max_tokens: int,
        captions_from: CaptionsFrom = "c",
    ) -> None:
        super().__init__(
            boxes,
            trainable,
            held_out,
            denoising_weight=0.0,
            max_tokens=max_tokens,
            captions_from=captions_from,
        )
        self._loss = loss
        self._beta = beta
        self._weight = weight

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.embeddings(batch)
        ids, lengths = trim(batch)
        logits = self.caption_decoder.logits(self._read(z, self.text_tower(z)), ids)  # (B,L,V)
        supervised = batch["supervised"]  # (B,)
        caption = (token_losses(logits, ids, lengths) * supervised).mean()
        preference, learned = self._preferences(logits.float(), batch)
        metrics = {
            # NaN where the batch has no pair, as `preferred` where it has no preference.
            "caption_loss": caption.detach() / supervised.mean(),
            "preference_loss": preference.detach(),
            "preferred": learned.detach(),
        }
        return caption + self._weight * preference, metrics

    def _preferences(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The mean loss of rows, and the share of preferences whose better word is likelier against
        the other one than it was for the model that wrote the caption.
        """
        rows = batch["place"].unsqueeze(-1).expand(-1, -1, logits.shape[-1])
        at_place = logits.gather(1, rows)  # (B,P,V)
        preferred, rejected = (
            at_place.gather(2, batch[name].unsqueeze(-1)).squeeze(-1)
            for name in ("preferred", "rejected")
        )
        gained = preferred - rejected - batch["log_odds"]  # (B,P)
        if self._loss == "dpo":
            losses = -F.logsigmoid(self._beta * gained)
        else:
            losses = at_place.logsumexp(-1) - preferred
        counts = batch["counts"]
        mean = (losses * counts).sum(1) / counts.sum(1).clamp(min=1)
        share = ((gained > 0) * counts).sum() / counts.sum()
        return mean.mean(), share
