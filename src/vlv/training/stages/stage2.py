"""Stage 2: a language model learns to read the caption embeddings (paper, section 3.2).

Pairs of picture and caption; cross-entropy on the caption and its end token. Where the encoder
trains too, the denoising loss of stage 1 stays on, so that the z that is captioned still
reconstructs the picture.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, model_validator
from torch import Tensor, nn

from vlv.checkpoints.language_model import load_language_model
from vlv.checkpoints.manifest import CaptionsFrom
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.encoder import VLVEncoder
from vlv.models.vlv import VLV
from vlv.training.lesson_pictures import LessonPictures
from vlv.training.model_names import component_folder, has_decoder, language_model_folder
from vlv.training.objectives.denoising import denoising_loss
from vlv.training.provenance import inherited, record_of
from vlv.training.samples.data_order import numpy_generator
from vlv.training.stage import Batch
from vlv.training.stages.encoding import EncoderStage, EncoderStageConfig, fresh_encoder
from vlv.training.stages.language_model import caption_item, trim
from vlv.training.trainable_parameters import ENCODER_PARTS, Part


class Stage2Config(EncoderStageConfig):
    """`stage1` is that run's folder; `encoder`, a model folder, gives the encoder in place of that
    one's, for the same decoder. `language_model` is the folder of a causal language model, in
    front of which psi starts anew; `captioner` in its place is a caption decoder, psi and all, that
    is trained further.

    Two settings are for comparison. `fresh_encoder` leaves stage 1 out: the encoder starts anew,
    with the sizes in `model`. `captions_from: z` leaves the text tower out: psi reads z.

    `trainable` names parts: vision (the vision tower), encoder (the paper's E: projection,
    transformer, queries and phi) or some of its four, psi, language_model. `denoising_weight`
    counts only where something of the encoder or the vision tower trains. A caption of more than
    `max_tokens` tokens, its end among them, is cut.

    `lesson` is a file that self-teaching writes: its pictures of `data` are learned from with its
    captions, of which those of pairs are repeated until they are about `pair_share` of all.
    """

    stage1: Path
    encoder: Path | None = None
    language_model: Path | None = None
    captioner: Path | None = None
    fresh_encoder: bool = False
    captions_from: CaptionsFrom = "c"
    trainable: list[Part] = Field(
        default=["vision", "encoder", "psi", "language_model"], min_length=1
    )
    denoising_weight: float = Field(1.0, ge=0)
    max_tokens: int = Field(96, gt=0)
    lesson: Path | None = None
    pair_share: float | None = Field(None, ge=0, lt=1)

    @model_validator(mode="after")
    def _one_captioner(self) -> "Stage2Config":
        if (self.language_model is None) == (self.captioner is None):
            raise ValueError("set either language_model or captioner")
        if self.fresh_encoder and self.encoder is not None:
            raise ValueError("fresh_encoder leaves out any encoder: do not set one beside it")
        return self


class Stage2(EncoderStage):
    """Cross-entropy of the caption given e = psi(T(E(x))), plus the weighted denoising loss."""

    name = "stage2"
    config: Stage2Config
    captioner: CaptionDecoder

    def __init__(self, config: Stage2Config) -> None:
        super().__init__(config, captioned=config.lesson is None)
        if config.lesson is not None:
            self.pictures = LessonPictures(self.pictures, config.lesson, config.pair_share or 0)
        self.captions_from = config.captions_from

    @property
    def trained_parts(self) -> Sequence[str]:
        return self.config.trainable

    @property
    def fresh(self) -> tuple[str, ...]:
        encoder = ("encoder.",) if self.config.fresh_encoder else ()
        return ("captioner.psi.", *encoder)

    def load(self) -> dict[str, nn.Module]:
        model = VLV.from_pretrained(self.config.stage1)
        self.origin = inherited(model.provenance)
        self.image_size = model.manifest.config.decoder_image_size
        tower = model.text_tower
        decoder: dict[str, nn.Module] = {"decoder": model.decoder} if has_decoder(model) else {}
        return {
            "encoder": self._encoder(model),
            "tower": tower,
            **decoder,
            "captioner": self._captioner(tower.width),
        }

    def _encoder(self, model: VLV) -> VLVEncoder:
        if self.config.fresh_encoder:
            return fresh_encoder(self.config, model.text_tower.width)
        if self.config.encoder is not None:
            return VLVEncoder.load(component_folder(self.config.encoder, "encoder"))
        return model.encoder

    def _captioner(self, width: int) -> CaptionDecoder:
        if self.config.captioner is not None:
            folder = component_folder(self.config.captioner, "caption_decoder")
            self.before = record_of(folder.parent, self.name)
            return CaptionDecoder.load(folder)
        assert self.config.language_model is not None  # the config's own check
        lm, tokenizer = load_language_model(language_model_folder(self.config.language_model))
        return CaptionDecoder(lm, tokenizer, width)

    def _read(self, z: Tensor, c: Tensor) -> Tensor:
        return z if self.captions_from == "z" else c

    @property
    def denoises(self) -> bool:
        moves = ENCODER_PARTS & set(self.config.trainable)
        return bool(moves) and self.config.denoising_weight > 0

    def item(self, position: int, index: int) -> Batch:
        words = numpy_generator(self.config.seed, position, "caption")
        view = self.pictures.view(index, self.draws(position), words)
        return caption_item(self.captioner, view.caption, self.config.max_tokens) | view.item

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.embeddings(batch)
        c = self.tower(z)
        caption = self.captioner(self._read(z, c), *trim(batch))
        figures = {"caption_loss": caption.detach(), **self.refusals(batch)}
        if not self.denoises:
            return caption, figures
        assert self.decoder is not None  # what denoises has one
        denoising = denoising_loss(self.decoder, batch, c)
        figures["denoising_loss"] = denoising.detach()
        return caption + self.config.denoising_weight * denoising, figures

    def validate(self) -> dict[str, float]:
        with self.precision():
            figures = self._caption_loss()
            return figures | self.reconstruction_figures() if self.denoises else figures

    def _caption_loss(self) -> dict[str, float]:
        """Mean over held-out captions of their mean cross-entropy, if there are any."""
        total, count = 0.0, 0
        for chunk in self.held_out.chunks():
            texts = self.held_out.captions(chunk)
            told = [at for at, text in enumerate(texts) if text]
            if not told:
                continue
            z = self.embeddings({"image": self.held_out.bytes_of(chunk)[told]})
            ids, lengths = self.captioner.tokenise(
                [texts[at] for at in told], self.config.max_tokens
            )
            loss = self.captioner(
                self._read(z, self.tower(z)), ids.to(self.device), lengths.to(self.device)
            )
            total, count = total + len(told) * float(loss), count + len(told)
        return {"caption_loss": total / count} if count else {}
