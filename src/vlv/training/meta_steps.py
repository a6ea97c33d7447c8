"""A step of stage 1 or 2 on the meta device, where tensors have sizes and no contents: the boxes
that a config names, the objective on them, and a batch. For counting what a step needs.

Shapes: B batch, K draws of noise, C, h, w latents, L caption tokens.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from vlv.checkpoints.hub import EMBEDDED
from vlv.checkpoints.opening import load_model
from vlv.checkpoints.published import known_base_models
from vlv.checkpoints.skeleton import skeleton
from vlv.checkpoints.weights import without_weights
from vlv.errors import ConfigError
from vlv.models.vlv import VLVModel
from vlv.training.config import WorldDataConfig
from vlv.training.model_names import has_decoder
from vlv.training.objectives.encoding import EncoderObjective, StageBoxes
from vlv.training.samples.data_order import numpy_generator
from vlv.training.samples.source import Batch
from vlv.training.samples.tokens import CaptionTokens
from vlv.training.samples.world import scene_of
from vlv.training.stages import stage1, stage2
from vlv.training.stages.encoding import EncoderStageConfig
from vlv.training.stages.stage1 import Stage1Config
from vlv.training.stages.stage2 import Stage2Config
from vlv.world.language import short_caption

# Batches whose longest captions are averaged, since padding is computed too.
BATCHES = 8
# Stage 1 has no language model: the one that is built fastest.
_SMALLEST = "Qwen/Qwen2.5-0.5B"


@dataclass(frozen=True)
class MetaBoxes:
    """The boxes of a config without weights, and what was assumed of those that are not here."""

    boxes: StageBoxes
    assumed: tuple[str, ...] = ()


def meta_boxes(config: EncoderStageConfig, encoder_image_size: int | None = None) -> MetaBoxes:
    """The boxes that a stage starts from, by their configs and the headers of their weights.
    encoder_image_size: side of the encoder's pictures in pixels, None for the model's.

    Where what the config names is not on this machine: of a run on images, the published parts of
    the paper's sizes, with the decoder that is named (`published_decoder`); of a run in the
    embedded world, those of the bundled model.

    Raises:
        CheckpointError: a model that is here is damaged.
        ConfigError: the language model is not here, and no published one is called so.
    """
    found = _meta_boxes(config)
    if encoder_image_size is not None:
        encoder = found.boxes.encoder
        encoder.settings = encoder.settings.model_copy(update={"image_size": encoder_image_size})
    return found


def _meta_boxes(config: EncoderStageConfig) -> MetaBoxes:
    missing = _missing(config)
    if not missing:
        with without_weights():
            return MetaBoxes(_open(config))
    if isinstance(config.data, WorldDataConfig):
        with without_weights():
            model = load_model("vlv-mini")
            boxes, sizes = boxes_of(model), "the bundled vlv-mini"
    else:
        language_model = _published_language_model(config)
        decoder = published_decoder(config)
        model = skeleton(decoder=decoder, language_model=language_model or _SMALLEST)
        boxes = boxes_of(model)
        parts = ["Florence-2-large", decoder or "Stable Diffusion 2.1-base", language_model]
        sizes = "the published " + ", ".join(part for part in parts if part)
    names = " and ".join(missing)
    return MetaBoxes(boxes, (f"{names} cannot be opened here: counted with the sizes of {sizes}",))


def _missing(config: EncoderStageConfig) -> list[str]:
    """The models that the config names and that are not on this machine."""
    return [str(name) for name in _named(config) if not _is_here(name)]


def _named(config: EncoderStageConfig) -> list[Path]:
    fields = ("stage1", "initial_model", "decoder", "encoder", "language_model", "caption_decoder")
    return [getattr(config, f) for f in fields if getattr(config, f, None) is not None]


def _is_here(name: Path) -> bool:
    """Whether a model is in the package or on this disk. The Hub is not asked: it would send it."""
    return str(name) in EMBEDDED or name.expanduser().exists()


def published_decoder(config: EncoderStageConfig) -> str | None:
    """The id of the published text-to-image model whose name is in a path that the config names,
    as in models/vlv-FLUX.1-dev; None where there is none.
    """
    known = {name.rpartition("/")[2]: name for name in known_base_models("decoder")}
    paths = [str(path) for path in _named(config)]
    found = [short for short in known if any(short in path for path in paths)]
    # Of stable-diffusion-2-1 and stable-diffusion-2-1-base, the one that says more.
    return known[max(found, key=len)] if found else None


def _published_language_model(config: EncoderStageConfig) -> str | None:
    """The id of the published language model that a folder of this name holds."""
    if not isinstance(config, Stage2Config):
        return None
    if config.language_model is None:
        raise ConfigError(
            f"caption_decoder: {config.caption_decoder} cannot be opened here, and nothing else "
            "says how large it is; name a folder that is here"
        )
    known = {name.rpartition("/")[2]: name for name in known_base_models("language_model")}
    found = known.get(config.language_model.name)
    if found is None:
        raise ConfigError(
            f"language_model: {config.language_model} cannot be opened here, and the published "
            f"ones whose sizes are known are {', '.join(known)}; name a folder that is here, or "
            "one of these"
        )
    return found


def _open(config: EncoderStageConfig) -> StageBoxes:
    if isinstance(config, Stage2Config):
        return stage2.open_boxes(config)
    assert isinstance(config, Stage1Config)  # there are no others
    return stage1.open_boxes(config)


def boxes_of(model: VLVModel) -> StageBoxes:
    """The boxes of a whole model; a captioner may lack the diffusion decoder."""
    captions = "caption_decoder" in model.manifest.components
    return StageBoxes(
        encoder=model.encoder,
        text_tower=model.text_tower,
        decoder=model.decoder if has_decoder(model) else None,
        image_size=model.manifest.config.decoder_image_size,
        caption_decoder=model.caption_decoder if captions else None,
    )


def encoder_objective(config: EncoderStageConfig, boxes: StageBoxes) -> EncoderObjective:
    """The objective of stage 1 or 2 on the meta device, without pictures. The boxes are used up."""
    objective: EncoderObjective
    if isinstance(config, Stage2Config):
        objective = stage2.make_objective(config, boxes)
    else:
        assert isinstance(config, Stage1Config)  # there are no others
        objective = stage1.make_objective(config, replace(boxes, caption_decoder=None))
    _move_to_meta(objective)
    return objective


def _move_to_meta(module: nn.Module) -> None:
    """`module.to("meta")`, where tensors that are shared stay shared."""
    moved: dict[int, Any] = {}
    for part in module.modules():
        held: dict[str, Any]
        for held in (part._parameters, part._buffers):
            for name, tensor in held.items():
                if tensor is not None and not tensor.is_meta:
                    if id(tensor) not in moved:
                        moved[id(tensor)] = _on_meta(tensor)
                    held[name] = moved[id(tensor)]


def _on_meta(tensor: Tensor) -> Tensor:
    made = torch.empty_like(tensor, device="meta")
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def meta_batch(
    config: EncoderStageConfig, objective: EncoderObjective, size: int, caption_tokens: int
) -> Batch:
    """A batch; only lengths of captions have contents. Latents of world scenes come from the
    cache, those of images on disk are computed in the step.
    """
    sides = {"image": objective.image_size, "encoder_image": objective.encoder.settings.image_size}
    batch: Batch = {
        name: torch.empty(size, side, side, 3, dtype=torch.uint8, device="meta")
        for name, side in sides.items()
    }
    if isinstance(config, Stage2Config):
        batch |= caption_batch(size, caption_tokens)
    if objective.denoises:
        assert objective.decoder is not None  # what denoises has one
        draws = config.noise_draws if isinstance(config, Stage1Config) else 1
        latent = objective.decoder.latent_shape
        batch |= draw_batch(latent, size, draws, cached=has_latents(config))
        if isinstance(config, Stage2Config) and config.distils:
            batch |= distillation_batch(objective, latent, size)
    return batch


def has_latents(config: EncoderStageConfig) -> bool:
    """Whether latents come from a cache, so that no step computes them."""
    return isinstance(config.data, WorldDataConfig) or config.data.latents is not None


def caption_batch(size: int, tokens: int) -> Batch:
    """Captions that all have this many tokens; their lengths are read, so they have contents."""
    ids = torch.empty(size, tokens, dtype=torch.long, device="meta")
    return {"caption_ids": ids, "caption_length": torch.full((size,), tokens)}


def draw_batch(latent: tuple[int, int, int], size: int, draws: int, *, cached: bool) -> Batch:
    """Noise (B,K,C,h,w) and timesteps (B,K), with latents or with what draws them."""
    made: Batch = {"noise": _empty(size, draws, *latent), "u": _empty(size, draws)}
    if cached:
        return {"latents": _empty(size, draws, *latent), **made}
    return {"posterior_noise": _empty(size, *latent), **made}


def distillation_batch(
    objective: EncoderObjective, latent: tuple[int, int, int], size: int
) -> Batch:
    """What distillation from captions draws (`DistillationDraws`)."""
    prompts = objective.text_tower.prompt_tokens
    return {
        "distillation_u": _empty(size),
        "guess_u": _empty(size),
        "guess_noise": _empty(size, *latent),
        "distillation_noise": _empty(size, *latent),
        "prompt_ids": torch.empty(size, sum(prompts.positions), dtype=torch.long, device="meta"),
    }


def caption_tokens(config: EncoderStageConfig, tokenizer: PreTrainedTokenizerFast) -> int:
    """L of a batch of world captions, on average; of captions on disk only the most that they can
    have is known.
    """
    if not isinstance(config, Stage2Config):
        return 0
    data = config.data
    if not isinstance(data, WorldDataConfig):
        return config.max_tokens
    tokens = CaptionTokens(tokenizer, config.max_tokens)
    lengths = []
    for at in range(BATCHES * config.train_batch_size):
        text = short_caption(scene_of(data, at), numpy_generator(config.seed, at, "caption"))
        lengths.append(int(tokens.item(text)["caption_length"]))
    return mean_longest(lengths)


def mean_longest(lengths: list[int]) -> int:
    """The longest caption of a batch, on average over the batches."""
    size = len(lengths) // BATCHES
    longest = [max(lengths[at : at + size]) for at in range(0, len(lengths), size)]
    return round(sum(longest) / BATCHES)


def _empty(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")
