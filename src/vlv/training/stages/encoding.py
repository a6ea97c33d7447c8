"""What stages 1 and 2 share: their fields, and how their objective and their samples are built."""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from vlv.errors import ConfigError
from vlv.models.encoder import TASK_PROMPTS, VLVEncoder
from vlv.models.latent_codec import LatentScale
from vlv.models.precision import mixed_precision, use_fast_attention
from vlv.models.text_tower import TextTower
from vlv.models.tokenizers import train_florence_tokenizer
from vlv.training.accelerator import computing_device
from vlv.training.checkpoint import list_checkpoints
from vlv.training.config import ImageSetConfig, TrainingConfig
from vlv.training.objectives.encoding import EncoderObjective, StageBoxes
from vlv.training.samples.held_out import HeldOut, WorldHeldOut
from vlv.training.samples.images import ImageStore, SetStore, WorldStore, open_image_sets
from vlv.training.samples.query_drop import QueryDrop, QueryDropKind, powers_of_two
from vlv.training.samples.set_latents import CacheKey, SetLatents
from vlv.training.samples.world import (
    require_size_of_world,
    validation_images,
    world_data,
    world_images,
)
from vlv.training.stages.common import DenoisingConfig, model_config
from vlv.training.trainable_parameters import COLLECTIVE, PART_NAMES


class EncoderStageConfig(DenoisingConfig):
    """`learning_rates` gives parts that train, by their names in `trainable`, rates of their own;
    each follows the schedule's shape.

    Two settings save memory, both off by default.
    `gradient_checkpointing` computes activations again in the backward pass; `auto` does so only
    where a step would not fit the memory of the device otherwise. `frozen_dtype` keeps frozen
    parameters in bfloat16 while the stage runs; the folder that it writes holds them as they were.

    `query_drop` hides embeddings in training, so that the first ones reconstruct and caption
    without the others (see `QueryDrop`). `query_drop_lengths` are the numbers that are kept:
    `uniform`, 1 to all of them; `powers`, 1, 2, 4 and so on, and all; or a list.
    `query_drop_probability` is the share of the samples that are cut. Validation then also
    measures the first 1, 2, 4 and so on.
    """

    gradient_checkpointing: bool | Literal["auto"] | None = None
    frozen_dtype: Literal["bf16"] | None = None
    learning_rates: dict[str, Annotated[float, Field(gt=0)]] | None = None
    query_drop: QueryDropKind | None = None
    query_drop_lengths: (
        Literal["uniform", "powers"]
        | Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    ) = "uniform"
    query_drop_probability: float = Field(1.0, gt=0, le=1)

    @property
    def trained(self) -> Sequence[str]:
        """Names of what trains."""
        raise NotImplementedError

    def rates_of_parts(self) -> dict[str, float]:
        """Learning rates of parts that have their own."""
        return self.learning_rates or {}

    @model_validator(mode="after")
    def _lengths_need_a_drop(self) -> "EncoderStageConfig":
        if self.query_drop is None:
            fields = type(self).model_fields
            for name in ("query_drop_lengths", "query_drop_probability"):
                if getattr(self, name) != fields[name].default:
                    raise ValueError(f"{name} needs query_drop: set it to tail or random")
        return self

    @model_validator(mode="after")
    def _rates_are_of_what_trains(self) -> "EncoderStageConfig":
        trained = {part for name in self.trained for part in COLLECTIVE.get(name, (name,))}
        for name in self.learning_rates or {}:
            if name not in PART_NAMES:
                near = difflib.get_close_matches(name, PART_NAMES, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(PART_NAMES)}"
                raise ValueError(f"learning_rates names {name}, which is no part ({hint})")
            if still := [p for p in COLLECTIVE.get(name, (name,)) if p not in trained]:
                raise ValueError(
                    f"learning_rates gives {name} a rate, but {' and '.join(still)} does not "
                    "train: leave it out, or name it in trainable"
                )
        return self

    @model_validator(mode="after")
    def _precisions_agree(self) -> "EncoderStageConfig":
        if self.frozen_dtype is not None and self.mixed_precision != self.frozen_dtype:
            raise ValueError("frozen_dtype: bf16 needs mixed_precision: bf16")
        return self


def save_memory(
    objective: EncoderObjective,
    config: EncoderStageConfig,
    fresh: tuple[str, ...],
    reopen: Callable[[], StageBoxes],
) -> None:
    """Apply the two settings. fresh: beginnings of the names of parameters that no folder holds;
    they are never rounded.
    """
    assert config.gradient_checkpointing != "auto"  # decided before (`automatic_checkpointing`)
    if config.gradient_checkpointing:
        objective.checkpoint_gradients()
    if config.frozen_dtype is not None:
        objective.round_frozen(fresh, reopen)


def open_images(
    config: TrainingConfig, image_size: int, *, captioned: bool, denoises: bool
) -> tuple[ImageStore, HeldOut]:
    """The pictures that `data` names, and those held out, for a decoder that draws them at this
    size. The encoder enlarges them by itself.

    Raises:
        ConfigError: they are scenes of the embedded world, which are of another size, and a decoder
            denoises them; or a new run would write among them.
    """
    if isinstance(config.data, ImageSetConfig):
        _check_apart(config.data.set, config.output_dir)
        return open_image_sets(
            config.data,
            image_size,
            validation_count=config.validation_count,
            batch_size=config.train_batch_size,
            captioned=captioned,
        )
    if denoises:
        require_size_of_world(image_size)
    data = world_data(config)
    store = WorldStore(world_images(data), one_caption=data.one_caption)
    return store, WorldHeldOut(validation_images(config), config.mixed_precision)


def _check_apart(images: Path, output_dir: Path) -> None:
    """Raise ConfigError for a new run in the folder of its images: the pictures of its validations
    would be images of the set, and it could not go on.
    """
    inside = images.is_dir() and output_dir.resolve().is_relative_to(images.resolve())
    if inside and not list_checkpoints(output_dir):
        raise ConfigError(
            f"output_dir {output_dir} lies in the folder of the images, {images}, and its pictures "
            "would become part of them; name a folder outside"
        )


def prepare(objective: EncoderObjective, store: ImageStore, config: TrainingConfig) -> None:
    """Make the boxes and the pictures fit each other. Latents are computed here, by the VAE as it
    is while the stage runs.
    """
    use_fast_attention(objective, computing_device())
    if isinstance(store, WorldStore) and objective.denoises:
        assert objective.decoder is not None  # what denoises has one
        store.cache_latents(objective.decoder.vae, config.mixed_precision)
    if store.crop_size is not None:
        # The encoder learns to see the decoder's crop, in use as in training.
        settings = objective.encoder.settings
        objective.encoder.settings = settings.model_copy(update={"crop_size": store.crop_size})


def query_drop(config: EncoderStageConfig, objective: EncoderObjective) -> QueryDrop | None:
    """How embeddings are dropped; the objective then validates with the first ones too.

    Raises:
        ConfigError: the encoder has fewer queries than are to be kept, the text tower mixes their
            tokens, or the decoder does not heed which tokens are left out.
    """
    if config.query_drop is None:
        return None
    if objective.captions_from == "c" and not objective.text_tower.causal:
        raise ConfigError(
            f"query_drop: in the text tower of the family {objective.text_tower.family_name} every "
            "token of c sees all embeddings, so that they cannot be hidden; leave it out"
        )
    decoder = objective.decoder
    if objective.denoises and decoder is not None and not decoder.family.heeds_mask:
        raise ConfigError(
            f"query_drop: decoders of the family {decoder.family.name} read all tokens of c, so "
            "that embeddings cannot be hidden from them; leave it out"
        )
    queries = objective.encoder.settings.num_queries
    lengths = config.query_drop_lengths
    if isinstance(lengths, str):
        lengths = powers_of_two(queries) if lengths == "powers" else [*range(1, queries + 1)]
    if max(lengths) > queries:
        raise ConfigError(
            f"query_drop_lengths names {max(lengths)}, and the encoder has {queries} queries; "
            "lower it"
        )
    objective.validated_prefixes = powers_of_two(queries)[:-1]
    return QueryDrop(
        config.query_drop, queries, tuple(lengths), config.seed, config.query_drop_probability
    )


def use_latents(boxes: StageBoxes, store: ImageStore, config: TrainingConfig) -> None:
    """Let a set's pictures have the latents that `data.latents` names, before any box is rounded.

    Raises:
        DatasetError: they are not complete, or were made of something else.
    """
    data = config.data
    if not isinstance(data, ImageSetConfig) or data.latents is None or boxes.decoder is None:
        return
    assert isinstance(store, SetStore)  # of images on disk
    vae = boxes.decoder.vae
    cache = SetLatents(data.latents, LatentScale.of(vae))
    precision = mixed_precision(config.mixed_precision, computing_device())
    cache.require(CacheKey.of(vae, store.images, boxes.image_size, precision))
    store.use_latents(cache)


def fresh_encoder(config: TrainingConfig, tower: TextTower) -> VLVEncoder:
    """An encoder of the sizes in `model`, for the z of a text tower; the prompt is the only text
    that it reads.
    """
    tokenizer = train_florence_tokenizer(TASK_PROMPTS.values())
    encoder = VLVEncoder.from_config(model_config(config).encoder, tokenizer, tower.slot_widths)
    encoder.start_at(tower.embedding_scales())
    return encoder
