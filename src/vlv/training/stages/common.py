"""Small things that several stages share."""

import torch
from torch import Tensor

from vlv.data.world_images import WorldImages
from vlv.errors import ConfigError
from vlv.models.config import VLVConfig
from vlv.training.config import TrainingConfig

VALIDATION_SEED = 1_000_000


def model_config(config: TrainingConfig) -> VLVConfig:
    """The sizes of the model, from the file that `model` names."""
    if config.model is None:
        raise ConfigError("this stage builds a network: set model to a model config (YAML)")
    return VLVConfig.from_yaml(config.model)


def training_images(config: TrainingConfig) -> WorldImages:
    """The scenes that `data` names."""
    data = config.data
    return WorldImages(
        data.folder,
        data.count,
        split=data.split,
        first_seed=data.first_seed,
        workers=data.workers,
    )


def validation_images(config: TrainingConfig) -> WorldImages:
    """Scenes of the `test` split, apart from those that `vlv eval` measures on."""
    return WorldImages(
        config.data.folder,
        config.validation_count,
        split="test",
        first_seed=VALIDATION_SEED,
        workers=config.data.workers,
    )


def pixels(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float in [-1, 1]."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div(127.5).sub(1.0)
