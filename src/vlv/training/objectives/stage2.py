"""Stage 2: a language model learns to read the caption embeddings (paper, section 3.2).

Pairs of picture and caption; cross-entropy on the caption and its end token. Where the encoder
trains too, the denoising loss of stage 1 stays on, so that the z that is captioned still
reconstructs the picture. Some captions may be of texts in place of pictures.

Shapes: B batch, L longest caption of the batch, Q, d length and width of z and c.
"""

from collections.abc import Collection, Sequence

from torch import Tensor

from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.conditioning import Conditioning
from vlv.models.config import CaptionsFrom
from vlv.training.objectives.denoising import denoising_loss
from vlv.training.objectives.encoding import EncoderObjective, StageBoxes
from vlv.training.objectives.kept_queries import kept_queries, visible
from vlv.training.objectives.texts import read_texts
from vlv.training.samples.held_out import HeldOut
from vlv.training.samples.source import Batch


class Stage2Objective(EncoderObjective):
    """Cross-entropy of the caption given e = psi(T(E(x))), plus the weighted denoising loss.

    captions_from: "z" leaves the text tower out: psi reads z. denoising_weight: 0 leaves the
    denoising loss out. max_tokens: of a caption in validation.
    """

    caption_decoder: CaptionDecoder

    def __init__(
        self,
        boxes: StageBoxes,
        trainable: Sequence[str],
        held_out: HeldOut | None = None,
        *,
        denoising_weight: float,
        max_tokens: int,
        captions_from: CaptionsFrom = "c",
    ) -> None:
        super().__init__(boxes, trainable, held_out)
        self.captions_from = captions_from
        self.denoises = denoising_weight > 0
        self._denoising_weight = denoising_weight
        self._max_tokens = max_tokens

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.embeddings(batch)
        c = self.text_tower(z)
        kept = kept_queries(batch)
        read = read_texts(self.text_tower, batch, self._read(z, c), kept)
        caption = self.caption_decoder(read[0], *trim(batch), read[1])
        metrics = {"caption_loss": caption.detach()}
        if not self.denoises:
            return caption, metrics
        assert self.decoder is not None  # what denoises has one
        denoising = denoising_loss(self.decoder, batch, visible(c, kept), self.weighting)
        metrics["denoising_loss"] = denoising.detach()
        return caption + self._denoising_weight * denoising, metrics

    def _read(self, z: Tensor, c: Conditioning) -> Tensor:
        return z if self.captions_from == "z" else c.tokens

    @property
    def best_by(self) -> Collection[str]:
        return ["caption_loss", *super().best_by]

    def validate(self) -> dict[str, float]:
        with self.precision():
            metrics = self._caption_loss()
            return metrics | self.reconstruction_metrics() if self.denoises else metrics

    def _caption_loss(self) -> dict[str, float]:
        """Mean over held-out captions of their mean cross-entropy, if there are any."""
        total, count = 0.0, 0
        for chunk in self.held_out.chunks():
            texts = self.held_out.captions(chunk)
            captioned = [at for at, text in enumerate(texts) if text]
            if not captioned:
                continue
            z = self.embeddings({"image": self.held_out.bytes_of(chunk)[captioned]})
            ids, lengths = self.caption_decoder.tokenise(
                [texts[at] for at in captioned], self._max_tokens
            )
            loss = self.caption_decoder(
                self._read(z, self.text_tower(z)), ids.to(self.device), lengths.to(self.device)
            )
            total, count = total + len(captioned) * float(loss), count + len(captioned)
        return {"caption_loss": total / count} if count else {}


def trim(batch: Batch) -> tuple[Tensor, Tensor]:
    """Ids (B,L) cut to the longest text of the batch, and lengths (B,)."""
    lengths = batch["caption_length"]
    return batch["caption_ids"][:, : int(lengths.max())], lengths
