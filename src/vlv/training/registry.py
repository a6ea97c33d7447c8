"""The stages by name: (module, config class, stage class), imported when asked for."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from vlv.errors import ConfigError
from vlv.training.config import TrainingConfig, load_config
from vlv.training.stage import Stage

STAGES = {
    "vae": ("vae", "VAEConfig", "VAEStage"),
    "text-to-image": ("text_to_image", "TextToImageConfig", "TextToImageStage"),
    "language-model": ("language_model", "LanguageModelConfig", "LanguageModelStage"),
    "inspector": ("inspector", "InspectorConfig", "InspectorStage"),
    "stage1": ("stage1", "Stage1Config", "Stage1"),
    "stage2": ("stage2", "Stage2Config", "Stage2"),
}


def stage_config(
    name: str, path: Path, overrides: list[str] | None = None
) -> tuple[TrainingConfig, type[Stage]]:
    """The checked config at `path` of the stage `name`, and the stage's class."""
    if name not in STAGES:
        raise ConfigError(
            f"unknown stage {name!r}; the stages are {', '.join(STAGES)}, "
            "and self-teach, which repeats the last"
        )
    module_name, config_name, stage_name = STAGES[name]
    module = import_module(f"vlv.training.stages.{module_name}")
    config = load_config(getattr(module, config_name), path, overrides)
    return config, getattr(module, stage_name)


def build_stage(name: str, path: Path, overrides: list[str] | None = None) -> Stage:
    """The stage `name` with the config at `path`; num_threads is set before anything is built."""
    config, kind = stage_config(name, path, overrides)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    # Fresh weights are a function of the seed alone.
    torch.manual_seed(config.seed)
    make: Any = kind  # every stage takes its own kind of config
    stage: Stage = make(config)
    return stage
