"""Stage 2: a language model learns to read the caption embeddings (paper, section 3.2).

Pairs of picture and caption; cross-entropy on the caption and its end token. Where the encoder
trains too, the denoising loss of stage 1 stays on, so that the z that is captioned still
reconstructs the picture.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field
from torch import Tensor, nn

from vlv.models.caption_decoder import CaptionDecoder, load_language_model
from vlv.models.vlv import VLV
from vlv.training.order import numpy_generator
from vlv.training.parts import ENCODER_PARTS, Part
from vlv.training.provenance import inherited
from vlv.training.stage import Batch
from vlv.training.stages.denoising import denoising_loss
from vlv.training.stages.encoding import EncoderStage, EncoderStageConfig
from vlv.training.stages.language_model import caption_item, trim


class Stage2Config(EncoderStageConfig):
    """`stage1` is that run's folder, `language_model` the folder of a causal language model.

    `trainable` names parts: vision (the vision tower), encoder (the paper's E: projection,
    transformer, queries and phi) or some of its four, psi, language_model. `denoising_weight`
    counts only where something of the encoder or the vision tower trains. A caption of more than
    `max_tokens` tokens, its end among them, is cut.
    """

    stage1: Path
    language_model: Path
    trainable: list[Part] = Field(
        default=["vision", "encoder", "psi", "language_model"], min_length=1
    )
    denoising_weight: float = Field(1.0, ge=0)
    max_tokens: int = 96


class Stage2(EncoderStage):
    """Cross-entropy of the caption given e = psi(T(E(x))), plus the weighted denoising loss."""

    name = "stage2"
    config: Stage2Config
    captioner: CaptionDecoder

    def __init__(self, config: Stage2Config) -> None:
        super().__init__(config, captioned=True)

    @property
    def trained_parts(self) -> Sequence[str]:
        return self.config.trainable

    @property
    def fresh(self) -> tuple[str, ...]:
        return ("captioner.psi.",)

    def load(self) -> dict[str, nn.Module]:
        model = VLV.from_pretrained(self.config.stage1)
        self.origin = inherited(model.provenance)
        encoder, tower, decoder = model.encoder, model.text_tower, model.decoder
        lm, tokenizer = load_language_model(self.config.language_model)
        return {
            "encoder": encoder,
            "tower": tower,
            "decoder": decoder,
            "captioner": CaptionDecoder(lm, tokenizer, tower.width),
        }

    @property
    def denoises(self) -> bool:
        moves = ENCODER_PARTS & set(self.config.trainable)
        return bool(moves) and self.config.denoising_weight > 0

    def item(self, position: int, index: int) -> Batch:
        words = numpy_generator(self.config.seed, position, "caption")
        view = self.pictures.view(index, self.draws(position), words)
        return caption_item(self.captioner, view.caption, self.config.max_tokens) | view.item

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        c = self.conditioning(batch)
        caption = self.captioner(c, *trim(batch))
        figures = {"caption_loss": caption.detach(), **self.refusals(batch)}
        if not self.denoises:
            return caption, figures
        denoising = denoising_loss(self.decoder, batch, c)
        figures["denoising_loss"] = denoising.detach()
        return caption + self.config.denoising_weight * denoising, figures

    def validate(self) -> dict[str, float]:
        with self.precision():
            return {"caption_loss": self._caption_loss(), **self.reconstruction_figures()}

    def _caption_loss(self) -> float:
        """Mean over held-out captions of their mean cross-entropy."""
        total = 0.0
        for chunk in self.held_out.chunks():
            c = self.conditioning({"image": self.held_out.bytes_of(chunk)})
            texts = self.held_out.captions(chunk)
            ids, lengths = self.captioner.tokenise(texts, self.config.max_tokens)
            loss = self.captioner(c, ids.to(self.device), lengths.to(self.device))
            total += len(chunk) * float(loss)
        return total / len(self.held_out)
