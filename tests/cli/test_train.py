"""`vlv train`: the command's own part; the loop is tested in tests/training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlv.training.reproduce import OPTIONAL, ORDER, configs_folder


def test_a_run_needs_a_config_and_a_known_stage(vlv: Callable[..., Any], tmp_path: Path) -> None:
    missing = vlv("train", "vae")
    assert (missing.code, "give --config FILE" in missing.err) == (2, True)
    config = tmp_path / "x.yaml"
    config.write_text("output_dir: out\n")
    unknown = vlv("train", "stage3", "--config", config)
    assert unknown.code == 2
    assert "unknown stage 'stage3'; the stages are vae, text-to-image" in unknown.err


def test_a_wrong_override_names_the_nearest_key(vlv: Callable[..., Any]) -> None:
    config = configs_folder() / "mini" / "vae.yaml"
    outcome = vlv("train", "vae", "--config", config, "learning_rat=1")
    assert outcome.code == 2
    assert "unknown key learning_rat (did you mean learning_rate?)" in outcome.err


def test_an_unknown_preset_is_named_with_the_known_ones(vlv: Callable[..., Any]) -> None:
    outcome = vlv("reproduce", "--preset", "maxi")
    assert outcome.code == 2
    assert "there is no preset 'maxi'; the presets are decoders/mini" in outcome.err


@pytest.mark.parametrize(
    ("preset", "name"),
    [
        (preset, name)
        for preset in ("mini", "mini-gpu")
        for name in ORDER
        if name not in OPTIONAL or (configs_folder() / preset / f"{name}.yaml").is_file()
    ],
)
def test_every_preset_has_a_valid_config_for_every_stage(preset: str, name: str) -> None:
    from importlib import import_module

    from vlv.models.model_config import VLVConfig
    from vlv.training.config import load_config
    from vlv.training.registry import STAGES

    module, config_name = STAGES[ORDER[name]]
    kind = getattr(import_module(f"vlv.training.stages.{module}"), config_name)
    config = load_config(kind, configs_folder() / preset / f"{name}.yaml")
    assert str(config.output_dir) == f"runs/{preset}/{name}"
    if config.model is not None:
        VLVConfig.from_yaml(config.model)
