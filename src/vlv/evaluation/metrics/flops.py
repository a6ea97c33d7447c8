"""Floating-point operations of a sample of a mini stage, by the record of its run.

Counted as `vlv.training.cost.flops` counts, on boxes without weights.
"""

from typing import Any

import torch
from torch.utils.data import default_collate

from vlv.models.vlv import VLVModel
from vlv.training.config import TrainingConfig, check_config
from vlv.training.cost.flops import step_flops
from vlv.training.meta_steps import (
    BATCHES,
    boxes_of,
    caption_batch,
    caption_tokens,
    draw_batch,
    encoder_objective,
    mean_longest,
    meta_batch,
)
from vlv.training.objectives.encoding import EncoderObjective
from vlv.training.objectives.inspector import InspectorObjective
from vlv.training.objectives.language_model import LanguageModelObjective
from vlv.training.objectives.objective import Objective
from vlv.training.objectives.text_to_image import TextToImageObjective
from vlv.training.samples.inspector_targets import scene_targets
from vlv.training.samples.source import Batch
from vlv.training.stages import vae
from vlv.training.stages.encoding import EncoderStageConfig
from vlv.training.stages.inspector import InspectorConfig
from vlv.training.stages.language_model import LanguageModelConfig, text_samples
from vlv.training.stages.stage1 import Stage1Config
from vlv.training.stages.stage2 import Stage2Config
from vlv.training.stages.text_to_image import TextToImageConfig
from vlv.training.stages.vae import VAEConfig
from vlv.world.inspector import Inspector
from vlv.world.scene import sample_scene

_CONFIGS: dict[str, type[TrainingConfig]] = {
    "vae": VAEConfig,
    "text-to-image": TextToImageConfig,
    "language-model": LanguageModelConfig,
    "inspector": InspectorConfig,
    "stage1": Stage1Config,
    "stage2": Stage2Config,
}


def sample_flops(name: str, record: dict[str, Any], model: VLVModel, inspector: Inspector) -> int:
    """Of one sample of a mini stage, by the record of its run in the model's provenance.

    The boxes are of the meta device; those that the stage trains are the model's own.

    Raises:
        ConfigError: the record is of another version's config.
    """
    config = check_config(_CONFIGS[name], record["config"], f"of {name} in vlv.json")
    return step_flops(*_step(config, model, inspector))


def _step(config: TrainingConfig, model: VLVModel, inspector: Inspector) -> tuple[Objective, Batch]:
    if isinstance(config, InspectorConfig):
        inspector.requires_grad_(True)
        truth = default_collate([scene_targets(sample_scene(0, "train"))])
        return InspectorObjective(inspector), {
            "image": torch.empty(1, 3, 64, 64, device="meta"),
            **{name: value.to("meta") for name, value in truth.items()},
        }
    if isinstance(config, LanguageModelConfig):
        caption_decoder = model.caption_decoder.requires_grad_(True)
        texts = text_samples(config, caption_decoder.tokenizer)
        count = BATCHES * config.train_batch_size
        lengths = [int(texts.item(at, at)["caption_length"]) for at in range(count)]
        return LanguageModelObjective(caption_decoder), caption_batch(1, mean_longest(lengths))
    decoder = model.decoder
    if isinstance(config, VAEConfig):
        objective = vae.make_objective(config, decoder.vae.requires_grad_(True))
        image = torch.empty(1, *(2 * [decoder.image_size]), 3, dtype=torch.uint8, device="meta")
        return objective, {
            "image": image,
            "noise": torch.empty(1, *decoder.latent_shape, device="meta"),
        }
    if isinstance(config, TextToImageConfig):
        tower = model.text_tower
        length = sum(slot.positions for slot in tower.slots)
        ids = torch.empty(1, length, dtype=torch.long, device="meta")
        drawing = TextToImageObjective(tower, decoder, train_text_tower=config.train_text_tower)
        return drawing, {
            "input_ids": ids,
            "dropped": torch.empty(1, dtype=torch.bool, device="meta"),
            **draw_batch(decoder.latent_shape, 1, 1, cached=True),
        }
    assert isinstance(config, Stage1Config | Stage2Config)  # there are no other stages
    tokens = 0
    if isinstance(config, Stage2Config):
        tokens = caption_tokens(config, model.caption_decoder.tokenizer)
    return encoder_step(config, model, tokens)


def encoder_step(
    config: EncoderStageConfig, model: VLVModel, tokens: int
) -> tuple[EncoderObjective, Batch]:
    """Stage 1 or 2 on one picture, with a caption of so many tokens."""
    objective = encoder_objective(config, boxes_of(model))
    return objective, meta_batch(config, objective, 1, tokens)
