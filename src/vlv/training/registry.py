"""The stages by name: (module, config class, stage class), imported when asked for."""

from importlib import import_module
from pathlib import Path

import torch

from vlv.errors import ConfigError
from vlv.training.config import load_config
from vlv.training.stage import Stage

STAGES = {
    "vae": ("vae", "VAEConfig", "VAEStage"),
    "text-to-image": ("text_to_image", "TextToImageConfig", "TextToImageStage"),
    "language-model": ("language_model", "LanguageModelConfig", "LanguageModelStage"),
    "inspector": ("inspector", "InspectorConfig", "InspectorStage"),
    "stage1": ("stage1", "Stage1Config", "Stage1"),
    "stage2": ("stage2", "Stage2Config", "Stage2"),
}


def build_stage(name: str, path: Path, overrides: list[str] | None = None) -> Stage:
    """The stage `name` with the config at `path`; num_threads is set before anything is built."""
    if name not in STAGES:
        raise ConfigError(f"unknown stage {name!r}; the stages are {', '.join(STAGES)}")
    module_name, config_name, stage_name = STAGES[name]
    module = import_module(f"vlv.training.stages.{module_name}")
    config = load_config(getattr(module, config_name), path, overrides)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    # Fresh weights are a function of the seed alone.
    torch.manual_seed(config.seed)
    stage: Stage = getattr(module, stage_name)(config)
    return stage
