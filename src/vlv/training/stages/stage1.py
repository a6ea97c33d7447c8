"""Stage 1: vision-language-vision auto-encoding, from images alone (paper, section 3.1).

A frozen text-to-image model teaches the encoder: whatever the embeddings z do not tell, the
decoder cannot denoise. No caption enters, not even for validation.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, model_validator
from torch import Tensor, nn

from vlv.models.vlv import VLV
from vlv.training.model_names import model_folder
from vlv.training.objectives.denoising import denoising_loss
from vlv.training.provenance import inherited, record_of
from vlv.training.stage import Batch
from vlv.training.stages.encoding import EncoderStage, EncoderStageConfig, fresh_encoder
from vlv.training.trainable_parameters import EncoderPart


class Stage1Config(EncoderStageConfig):
    """Where the model comes from, and what of it trains.

    `initial_model` is a model folder with an encoder and a text-to-image model. `decoder` is the
    folder of a text-to-image model alone: with `model`, for a fresh encoder of its sizes; or with
    `initial_model`, whose encoder then learns to be drawn by that decoder.
    `trainable` names parts of the encoder (see `vlv.training.trainable_parameters`); all of it by
    default.

    `noise_draws` timesteps and noises are drawn for every picture: the encoder runs once for
    all, and their gradients average.
    """

    decoder: Path | None = None
    initial_model: Path | None = None
    trainable: list[EncoderPart] | None = Field(default=None, min_length=1)
    noise_draws: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _some_origin(self) -> "Stage1Config":
        if self.decoder is None and self.initial_model is None:
            raise ValueError("set initial_model, or decoder (with model), or both")
        return self


class Stage1(EncoderStage):
    """L = ||eps - eps_theta(z_t, t, T(E(x)))||^2, or the counterpart for the scheduler's target."""

    name = "stage1"
    config: Stage1Config

    def __init__(self, config: Stage1Config) -> None:
        super().__init__(config, captioned=False)

    @property
    def denoises(self) -> bool:
        return True

    @property
    def trained_parts(self) -> Sequence[str]:
        return self.config.trainable or ["vision", "encoder"]

    @property
    def fresh(self) -> tuple[str, ...]:
        return () if self.config.initial_model is not None else ("encoder.",)

    def load(self) -> dict[str, nn.Module]:
        config = self.config
        if config.initial_model is not None:
            model = VLV.from_pretrained(config.initial_model)
            self.before = record_of(model_folder(config.initial_model), self.name)
            self.origin = inherited(model.provenance)
            drawing = model if config.decoder is None else VLV.from_pretrained(config.decoder)
            self.image_size = drawing.manifest.config.decoder_image_size
            return {
                "tower": drawing.text_tower,
                "decoder": drawing.decoder,
                "encoder": model.encoder,
            }
        assert config.decoder is not None  # the config's own check
        frozen = VLV.from_pretrained(config.decoder)
        self.origin = inherited(frozen.provenance)
        self.image_size = frozen.manifest.config.decoder_image_size
        tower = frozen.text_tower
        encoder = fresh_encoder(config, tower.width)
        return {"tower": tower, "decoder": frozen.decoder, "encoder": encoder}

    def item(self, position: int, index: int) -> Batch:
        return self.pictures.view(index, self.draws(position, self.config.noise_draws)).item

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.decoder is not None  # stage 1 is nothing without
        loss = denoising_loss(self.decoder, batch, self.tower(self.embeddings(batch)))
        return loss, self.refusals(batch)

    def validate(self) -> dict[str, float]:
        with self.precision():
            return self.reconstruction_figures()
