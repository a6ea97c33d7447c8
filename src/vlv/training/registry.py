"""The stages by name: (module, config class), imported when asked for."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from vlv.errors import ConfigError
from vlv.training.automatic_checkpointing import settled_here
from vlv.training.config import TrainingConfig, check_config, load_config
from vlv.training.stage import Stage

STAGES = {
    "vae": ("vae", "VAEConfig"),
    "text-to-image": ("text_to_image", "TextToImageConfig"),
    "language-model": ("language_model", "LanguageModelConfig"),
    "inspector": ("inspector", "InspectorConfig"),
    "stage1": ("stage1", "Stage1Config"),
    "stage2": ("stage2", "Stage2Config"),
    "preferences": ("preferences", "PreferencesConfig"),
}


def stage_config(
    name: str, path: Path, overrides: list[str] | None = None
) -> tuple[TrainingConfig, Callable[[Any], Stage]]:
    """The checked config at `path` of the stage `name`, and the function that builds the stage from
    it.
    """
    kind, build = _stage(name)
    return load_config(kind, path, overrides), build


def _stage(name: str) -> tuple[type[TrainingConfig], Callable[[Any], Stage]]:
    if name not in STAGES:
        raise ConfigError(
            f"unknown stage {name!r}; the stages are {', '.join(STAGES)}, "
            "and self-training, which repeats stage2"
        )
    module_name, config_name = STAGES[name]
    module = import_module(f"vlv.training.stages.{module_name}")
    return getattr(module, config_name), module.build


def build_stage(name: str, path: Path, overrides: list[str] | None = None) -> Stage:
    """The stage `name` with the config at `path`; num_threads is set before anything is built."""
    return _build(*stage_config(name, path, overrides))


def saved_stage(name: str, config: dict[str, Any], where: Path) -> Stage:
    """The stage `name` with a config that its run has saved in `where`."""
    kind, build = _stage(name)
    return _build(check_config(kind, config, f"in {where}"), build)


def _build(config: TrainingConfig, build: Callable[[Any], Stage]) -> Stage:
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    # Fresh weights are a function of the seed alone.
    torch.manual_seed(config.seed)
    return build(settled_here(config))
