"""Small things that several stages share."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vlv.data.world_images import WorldImages
from vlv.errors import ConfigError
from vlv.models.config import VLVConfig
from vlv.training.config import TrainingConfig, WorldDataConfig
from vlv.world.language import long_caption, short_caption
from vlv.world.scene import sample_scene

VALIDATION_SEED = 1_000_000


def model_config(config: TrainingConfig) -> VLVConfig:
    """The sizes of the model, from the file that `model` names."""
    if config.model is None:
        raise ConfigError("this stage builds a network: set model to a model config (YAML)")
    return VLVConfig.from_yaml(config.model)


def world_data(config: TrainingConfig) -> WorldDataConfig:
    """The embedded world's part in a config, for what learns from the world alone."""
    if isinstance(config.data, WorldDataConfig):
        return config.data
    raise ConfigError("this stage learns from the embedded world: data.set is for stages 1 and 2")


def training_images(config: TrainingConfig) -> WorldImages:
    """The scenes that a run learns from."""
    return world_images(world_data(config))


def world_images(data: WorldDataConfig) -> WorldImages:
    """The scenes that `data` names."""
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
        world_data(config).folder,
        config.validation_count,
        split="test",
        first_seed=VALIDATION_SEED,
        workers=world_data(config).workers,
    )


def pixels(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float in [-1, 1]."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div(127.5).sub(1.0)


def caption_texts(count: int) -> list[str]:
    """Captions to learn a tokenizer from: short and long ones of training scenes."""
    texts = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        write = long_caption if seed % 4 == 0 else short_caption
        texts.append(write(sample_scene(seed, "train"), rng))
    return texts


def picture_rows(rows: Sequence[Sequence[NDArray[np.uint8]]]) -> Image.Image:
    """Rows of equally large pictures as one image, without margins."""
    return Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))
