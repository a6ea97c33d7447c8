"""What a whole run of stage 1 or 2 computes, reads off its config: steps, validation, pictures.

Counted on the meta device. Knows no GPU, no time and no price.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.training.config import TrainingConfig, WorldDataConfig
from vlv.training.cost.flops import PartFlops, counting, part_flops
from vlv.training.meta_steps import (
    MetaBoxes,
    caption_tokens,
    encoder_objective,
    meta_batch,
    meta_boxes,
)
from vlv.training.objectives.encoding import (
    PICTURE_STEPS,
    PICTURES,
    EncoderObjective,
)
from vlv.training.samples.held_out import HeldOut
from vlv.training.stages.encoding import EncoderStageConfig
from vlv.training.stages.stage2 import Stage2Config

# The paper's mean caption of stage 2, where nobody says how long captions are.
CAPTION_TOKENS = 227


@dataclass(frozen=True)
class Work:
    """Operations of a run on `processes` devices."""

    config: EncoderStageConfig
    processes: int
    caption_tokens: int
    """Length of the longest caption of a batch; 0 where none is read."""
    sample: dict[str, PartFlops]
    """Of one sample of a step, by part."""
    validation: int
    """Of one validation, which the first process computes while the others wait."""
    first_validation: int
    """Of what the first validation computes for all: latents of held-out pictures."""
    picture: int
    """Of the picture that a validation draws."""

    @property
    def samples_per_step(self) -> int:
        """Of all processes."""
        config = self.config
        return config.train_batch_size * config.gradient_accumulation_steps * self.processes

    @property
    def samples(self) -> int:
        """That the run sees."""
        return self.samples_per_step * self.config.max_train_steps

    @property
    def sample_flops(self) -> int:
        """Of one sample, with what gradient checkpointing computes again."""
        return sum(part.total for part in self.sample.values())

    @property
    def validations(self) -> int:
        """While it trains."""
        return -(-self.config.max_train_steps // self.config.validation_steps)

    @property
    def checkpoints(self) -> int:
        """That are written."""
        return -(-self.config.max_train_steps // self.config.checkpointing_steps)

    @property
    def training_flops(self) -> int:
        """Of all steps, on all processes together."""
        return self.samples * self.sample_flops

    @property
    def validation_flops(self) -> int:
        """Of all validations, the export's among them, on one process."""
        pictures = self.validations * self.picture if self.config.validation_picture else 0
        return (self.validations + 1) * self.validation + self.first_validation + pictures


def count_work(
    config: EncoderStageConfig, found: MetaBoxes, processes: int, tokens: int | None = None
) -> Work:
    """Count a run. The boxes are used up. tokens: of a caption, None for what is known of the
    captions or for the paper's mean.
    """
    objective = _plain_objective(config, found)
    length = _caption_length(config, objective, tokens)
    validation = _validation_flops(config, objective, length)
    drawn = _picture_flops(objective)
    latents = 0
    if objective.denoises and not isinstance(config.data, WorldDataConfig):
        latents = config.validation_count * _encode_flops(objective)
    sample = _sample_flops(config, objective, length)
    return Work(config, processes, length, sample, validation, latents, drawn)


def _plain_objective(config: EncoderStageConfig, found: MetaBoxes) -> EncoderObjective:
    # Neither setting changes what is computed once; checkpointing is counted apart.
    plain = config.model_copy(update={"gradient_checkpointing": None, "frozen_dtype": None})
    return encoder_objective(plain, found.boxes)


def _sample_flops(
    config: EncoderStageConfig, objective: EncoderObjective, length: int
) -> dict[str, PartFlops]:
    batch = meta_batch(config, objective, 1, length)
    return part_flops(objective, batch, checkpointing=bool(config.gradient_checkpointing))


def sample_flops(config: TrainingConfig, tokens: int) -> float:
    """Of one sample with a caption of so many tokens, all that is computed; 0 for other stages than
    1 and 2, whose operations are not counted from their config.
    """
    if not isinstance(config, EncoderStageConfig):
        return 0.0
    sample = _sample_flops(config, _plain_objective(config, meta_boxes(config)), tokens)
    return float(sum(part.total for part in sample.values()))


def _caption_length(
    config: EncoderStageConfig, objective: EncoderObjective, tokens: int | None
) -> int:
    if not isinstance(config, Stage2Config):
        return 0
    if tokens is not None:
        return min(tokens, config.max_tokens)
    if isinstance(config.data, WorldDataConfig):
        assert objective.caption_decoder is not None  # stage 2 has one
        return caption_tokens(config, objective.caption_decoder.tokenizer)
    return min(CAPTION_TOKENS, config.max_tokens)


class _MetaHeldOut(HeldOut):
    """One held-out picture without contents, as the encoder sees it."""

    def __init__(self, objective: EncoderObjective) -> None:
        side = objective.encoder.settings.image_size
        self.images = np.zeros((1, side, side, 3), np.uint8)

    def bytes_of(self, chunk: range) -> Tensor:
        return super().bytes_of(chunk).to("meta")

    def latents(self, decoder: DiffusionDecoder) -> Tensor:
        return torch.empty(1, *decoder.latent_shape, device="meta")

    def captions(self, chunk: range) -> list[str]:
        return ["a"]


def _validation_flops(config: EncoderStageConfig, objective: EncoderObjective, length: int) -> int:
    """Of `validation_count` pictures, as the objective itself validates one."""
    objective.eval()
    objective._held_out = _MetaHeldOut(objective)
    if objective.caption_decoder is not None:
        objective.caption_decoder.tokenise = lambda *_: (  # type: ignore[method-assign]
            torch.empty(1, length, dtype=torch.long, device="meta"),
            torch.full((1,), length),
        )
    with torch.no_grad(), counting() as counter:
        objective.validate()
    return config.validation_count * int(counter.get_total_flops())


def _encode_flops(objective: EncoderObjective) -> int:
    """Of the latents of one picture."""
    assert objective.decoder is not None  # what denoises has one
    side = objective.image_size
    with torch.no_grad(), counting() as counter:
        objective.decoder.encode_images(torch.empty(1, 3, side, side, device="meta"))
    return int(counter.get_total_flops())


def _picture_flops(objective: EncoderObjective) -> int:
    """Of the picture that a validation draws: of every scene a pass of the denoiser a step, or two
    where guidance needs one without embeddings, and the decoder of the VAE once. The embeddings
    themselves are left out.
    """
    decoder = objective.decoder
    if decoder is None:
        return 0
    latent = torch.empty(1, *decoder.latent_shape, device="meta")
    tower = objective.text_tower
    embeddings = torch.empty(1, tower.positions, tower.width, device="meta")
    with torch.no_grad():
        context = tower(embeddings)
    with torch.no_grad(), counting() as step:
        decoder.predict(latent, torch.zeros(1, device="meta"), context)
    with torch.no_grad(), counting() as decoding:
        decoder.decode_latents(latent)
    rows = 2 if decoder.family.record.negative_prompt else 1
    passes = rows * PICTURE_STEPS * int(step.get_total_flops())
    return PICTURES * (passes + int(decoding.get_total_flops()))
