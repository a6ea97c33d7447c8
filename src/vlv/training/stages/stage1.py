"""Building stage 1: vision-language-vision auto-encoding, from images alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from pydantic import Field, model_validator

from vlv.errors import ConfigError
from vlv.models.config import Entry
from vlv.models.text_tower import ConditioningEntry
from vlv.training.accelerator import computing_device
from vlv.training.model_names import model_folder, open_model
from vlv.training.objectives.encoding import StageBoxes
from vlv.training.objectives.stage1 import Stage1Objective
from vlv.training.provenance import inherited, record_of
from vlv.training.samples.encoding import ImageSamples
from vlv.training.samples.held_out import HeldOut
from vlv.training.samples.images import ImageStore
from vlv.training.samples.source import Batch
from vlv.training.stage import Stage
from vlv.training.stages.common import draw_settings, loss_weighting, warn_of_unread_model
from vlv.training.stages.encoding import (
    EncoderStageConfig,
    fresh_encoder,
    open_images,
    prepare,
    query_drop,
    save_memory,
    use_latents,
)
from vlv.training.starts import DRAWING, Starts, components_of
from vlv.training.trainable_parameters import EncoderGroup
from vlv.training.whitened_start import PICTURES, start_whitened

NAME = "stage1"


class Stage1Config(EncoderStageConfig):
    """Where the model comes from, and what of it trains.

    `initial_model` is a model folder with an encoder and a text-to-image model. `decoder` is the
    folder of a text-to-image model alone: with `model`, for a fresh encoder of its sizes; or with
    `initial_model`, whose encoder then learns to be drawn by that decoder.
    `trainable` names parts of the encoder (see `vlv.training.trainable_parameters`); all of it by
    default.

    `entry` says what a fresh encoder writes: `embeddings` in place of the text encoder's token
    embeddings, as in the paper, or `conditioning`, which is c itself, past the text encoder.

    `noise_draws` timesteps and noises are drawn for every picture: the encoder runs once for
    all, and their gradients average.

    `phi_start` says how a fresh phi begins: with `random` weights, or `whitened`, with what differs
    between the first pictures of the data (see `start_whitened`).
    """

    decoder: Path | None = None
    initial_model: Path | None = None
    trainable: list[EncoderGroup] | None = Field(default=None, min_length=1)
    noise_draws: int = Field(1, ge=1)
    entry: Entry = "embeddings"
    phi_start: Literal["random", "whitened"] = "random"

    @model_validator(mode="after")
    def _some_origin(self) -> "Stage1Config":
        if self.decoder is None and self.initial_model is None:
            raise ValueError("set initial_model, or decoder (with model), or both")
        if self.entry != "embeddings" and self.initial_model is not None:
            raise ValueError("entry is of a fresh encoder: leave out initial_model")
        return self

    @property
    def trained(self) -> Sequence[str]:
        """Names of what trains."""
        return self.trainable or ["vision", "encoder"]


def build(config: Stage1Config) -> Stage:
    """The stage with its boxes and its pictures."""
    if config.initial_model is not None:
        warn_of_unread_model(config, config.initial_model)
    boxes = open_boxes(config)
    store, held_out = open_images(config, boxes.image_size, captioned=False, denoises=True)
    use_latents(boxes, store, config)
    objective = make_objective(config, boxes, held_out)
    prepare(objective, store, config)
    assert boxes.decoder is not None  # stage 1 always denoises
    if config.phi_start == "whitened":
        _start_whitened(config, boxes, store)
    draws = draw_settings(config, boxes.decoder, config.noise_draws)
    drop = query_drop(config, objective)
    samples = ImageSamples(store, config.seed, draws=draws, query_drop=drop)
    return Stage(NAME, config, objective, samples, boxes.before, boxes.starts)


def make_objective(
    config: Stage1Config, boxes: StageBoxes, held_out: HeldOut | None = None
) -> Stage1Objective:
    """The objective on given boxes."""
    objective = Stage1Objective(boxes, config.trained, held_out)
    objective.weighting = loss_weighting(config)
    fresh = () if config.initial_model is not None else ("encoder.",)
    save_memory(objective, config, fresh, lambda: open_boxes(config))
    return objective


def _start_whitened(config: Stage1Config, boxes: StageBoxes, store: ImageStore) -> None:
    """Set the fresh phi by the first pictures of the store.

    Raises:
        ConfigError: phi is not fresh, or there are too few pictures.
    """
    if boxes.before is not None:
        raise ConfigError(
            f"phi_start: whitened sets a fresh phi, and {config.initial_model} has been through "
            "stage 1 already; set phi_start: random"
        )
    if len(store) < 2:
        raise ConfigError("phi_start: whitened needs at least two pictures; set phi_start: random")
    views: list[Batch] = [store.view(at).item for at in range(min(len(store), PICTURES))]
    seen = "encoder_image" if "encoder_image" in views[0] else "image"
    pictures = torch.stack([view[seen] for view in views])
    encoder = boxes.encoder.to(computing_device())
    start_whitened(encoder, pictures, fresh_vision=config.initial_model is None)
    if dist.is_available() and dist.is_initialized():
        # On another device the components may have another sign.
        for parameter in encoder.phi.parameters():
            dist.broadcast(parameter.data, src=0)


def open_boxes(config: Stage1Config) -> StageBoxes:
    """The boxes as the stage starts from them."""
    if config.initial_model is not None:
        model = open_model("initial_model", config.initial_model)
        before = record_of(model_folder(config.initial_model), NAME)
        drawing, own = model, components_of(model, ["encoder"])
        starts: Starts = {"initial_model": own | components_of(model, DRAWING)}
        if config.decoder is not None:
            drawing = open_model("decoder", config.decoder)
            starts = {"initial_model": own, "decoder": components_of(drawing, DRAWING)}
        return StageBoxes(
            text_tower=drawing.text_tower,
            decoder=drawing.decoder,
            encoder=model.encoder,
            image_size=drawing.manifest.config.decoder_image_size,
            provenance=inherited(model.provenance),
            before=before,
            starts=starts,
        )
    assert config.decoder is not None  # the config's own check
    frozen = open_model("decoder", config.decoder)
    tower = frozen.text_tower
    if config.entry == "conditioning":
        tower = ConditioningEntry(tower)
    encoder = fresh_encoder(config, tower)
    return StageBoxes(
        text_tower=tower,
        decoder=frozen.decoder,
        encoder=encoder,
        image_size=frozen.manifest.config.decoder_image_size,
        provenance=inherited(frozen.provenance),
        starts={"decoder": components_of(frozen, DRAWING)},
    )
