"""The stages by name: (module, config class), imported when asked for."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from vlv.errors import ConfigError
from vlv.training.config import TrainingConfig, load_config
from vlv.training.stage import Stage

STAGES = {
    "vae": ("vae", "VAEConfig"),
    "text-to-image": ("text_to_image", "TextToImageConfig"),
    "language-model": ("language_model", "LanguageModelConfig"),
    "inspector": ("inspector", "InspectorConfig"),
    "stage1": ("stage1", "Stage1Config"),
    "stage2": ("stage2", "Stage2Config"),
}


def stage_config(
    name: str, path: Path, overrides: list[str] | None = None
) -> tuple[TrainingConfig, Callable[[Any], Stage]]:
    """The checked config at `path` of the stage `name`, and the function that builds the stage from
    it.
    """
    if name not in STAGES:
        raise ConfigError(
            f"unknown stage {name!r}; the stages are {', '.join(STAGES)}, "
            "and self-training, which repeats the last"
        )
    module_name, config_name = STAGES[name]
    module = import_module(f"vlv.training.stages.{module_name}")
    return load_config(getattr(module, config_name), path, overrides), module.build


def build_stage(name: str, path: Path, overrides: list[str] | None = None) -> Stage:
    """The stage `name` with the config at `path`; num_threads is set before anything is built."""
    config, build = stage_config(name, path, overrides)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    # Fresh weights are a function of the seed alone.
    torch.manual_seed(config.seed)
    return build(config)
