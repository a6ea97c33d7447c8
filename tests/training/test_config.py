"""Configs: overrides, and errors that name the fault."""

from pathlib import Path

import pytest

from vlv.errors import ConfigError
from vlv.training.config import (
    ImageSetConfig,
    TrainingConfig,
    WorldDataConfig,
    differing_fields,
    load_config,
)
from vlv.training.registry import stage_config
from vlv.training.reproduce import configs_folder

BASE = "output_dir: out\nmax_train_steps: 10\ntrain_batch_size: 4\nlearning_rate: 0.1\n"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(BASE)
    return path


def test_overrides_reach_nested_fields_and_read_numbers_as_people_write_them(
    config_file: Path,
) -> None:
    config = load_config(
        TrainingConfig, config_file, ["learning_rate=1e-4", "data.count=12", "use_ema=true"]
    )
    assert (config.learning_rate, config.data.count, config.use_ema) == (1e-4, 12, True)


def test_no_mixed_precision_can_be_asked_for_as_people_write_it(config_file: Path) -> None:
    """YAML reads a bare no as false."""
    config = load_config(TrainingConfig, config_file, ["mixed_precision=no"])
    assert config.mixed_precision == "no"
    with pytest.raises(ConfigError, match="mixed_precision"):
        load_config(TrainingConfig, config_file, ["mixed_precision=yes"])


def test_the_model_file_is_found_beside_the_config(config_file: Path) -> None:
    config_file.write_text(BASE + "model: model.yaml\n")
    assert load_config(TrainingConfig, config_file).model == config_file.parent / "model.yaml"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rat=1", "unknown key learning_rat \\(did you mean learning_rate\\?\\)"),
        ("data.cuont=1", "unknown key data.cuont \\(did you mean count\\?\\)"),
        ("max_train_steps=0", "max_train_steps: .*greater than 0"),
        ("nonsense", "not of the form key=value"),
        ("seed.x=1", "'seed' has no fields of its own"),
    ],
)
def test_faults_are_named(config_file: Path, override: str, message: str) -> None:
    config_file.write_text(BASE + "seed: 0\n")
    with pytest.raises(ConfigError, match=message):
        load_config(TrainingConfig, config_file, [override])


def test_a_missing_file_and_broken_yaml_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config .*none\.yaml cannot be read"):
        load_config(TrainingConfig, tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"broken\.yaml is not valid YAML"):
        load_config(TrainingConfig, tmp_path / "broken.yaml")


def test_data_are_the_world_or_a_set_on_disk(config_file: Path) -> None:
    config = load_config(TrainingConfig, config_file, ["data.set=photos", "data.format=folder"])
    assert config.data == ImageSetConfig(set=Path("photos"), format="folder")
    assert isinstance(load_config(TrainingConfig, config_file).data, WorldDataConfig)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.set=photos", "data.count=3"], r"unknown key data\.count \(known: format"),
        (["data.set=photos", "data.fromat=folder"], r"data\.fromat \(did you mean format\?\)"),
        (["data.set=photos", "data.format=zip"], r"data\.format: Input should be 'folder'"),
    ],
)
def test_faults_in_data_are_named(config_file: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(TrainingConfig, config_file, overrides)


def test_a_field_that_an_older_run_did_not_know_makes_it_no_other_run(config_file: Path) -> None:
    class Newer(TrainingConfig):
        lever: str | None = None

    saved = load_config(TrainingConfig, config_file).model_dump(mode="json")
    assert differing_fields(saved, load_config(Newer, config_file)) == []
    assert differing_fields(saved, load_config(Newer, config_file, ["lever=high"])) == ["lever"]
    on_disk = load_config(Newer, config_file, ["data.set=photos"])
    assert differing_fields(saved, on_disk) == ["data"]
    moved = load_config(Newer, config_file, ["data.set=elsewhere"])
    assert differing_fields(on_disk.model_dump(mode="json"), moved) == []


@pytest.mark.parametrize("written", ["1e3", "1E3", "1.e3", "+1e+3", ".1e4", "1000.0"])
def test_numbers_are_read_as_people_write_them(config_file: Path, written: str) -> None:
    config_file.write_text(BASE.replace("max_train_steps: 10", f"max_train_steps: {written}"))
    assert load_config(TrainingConfig, config_file).max_train_steps == 1000
    overridden = load_config(TrainingConfig, config_file, [f"max_train_steps={written}", "seed=2"])
    assert (overridden.max_train_steps, overridden.seed) == (1000, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("max_train_steps=1.5", "max_train_steps: .*valid integer, got a number with a fraction"),
        ("max_train_steps=1e999", "max_train_steps: .*finite number"),
        ("learning_rate=.inf", "learning_rate: .*finite number"),
        ("seed=-1", "seed: .*greater than or equal to 0"),
        ("data=3", "data: Input should be a valid dictionary"),
        ("data.=3", "not of the form key=value"),
        ("data=[1", r"override 'data=\[1' is not valid YAML: line 1: expected ',' or '\]'"),
        ("data={1: 2}", "data.1: Keys should be strings"),
    ],
)
def test_values_that_cannot_be_are_named(config_file: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(TrainingConfig, config_file, [override])


@pytest.mark.parametrize(
    ("stage", "overrides", "message"),
    [
        ("vae", ["lr_scheduler=constant"], "constant has no warmup: set constant_with_warmup"),
        ("vae", ["lr_scheduler=polynomial", "learning_rate=1e-7"], "polynomial ends at 1e-07"),
        ("vae", ["lr_num_cycles=2"], "lr_num_cycles needs lr_scheduler: cosine_with_restarts"),
        ("inspector", ["use_ema=false"], "ema_decay needs use_ema"),
        ("stage1", ["logit_mean=0.5"], "logit_mean needs weighting_scheme: logit_normal"),
        ("stage1", ["weighting_scheme=mode", "logit_std=2"], "logit_std needs weighting_scheme"),
        ("stage2", ["mode_scale=0.5"], "mode_scale needs weighting_scheme: mode"),
        ("stage2", ["optimizer=adamw8bit", "sharding=fsdp"], "set sharding: none, or optimizer"),
    ],
)
def test_a_field_that_would_be_ignored_is_an_error(
    stage: str, overrides: list[str], message: str
) -> None:
    path = configs_folder() / "mini" / f"{stage}.yaml"
    stage_config(stage, path, [])
    with pytest.raises(ConfigError, match=message):
        stage_config(stage, path, overrides)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "latin-1"])
def test_configs_in_other_encodings_are_read(config_file: Path, encoding: str) -> None:
    text = BASE.replace("output_dir: out", "output_dir: läufe/café\r")
    config_file.write_bytes(text.encode(encoding))
    assert load_config(TrainingConfig, config_file).output_dir == Path("läufe/café")


@pytest.mark.parametrize(
    ("stage", "override"),
    [
        ("vae", "lr_scheduler=cosin"),
        ("vae", "lr_scheduler=piecewise_constant"),
        ("vae", "data.first_seed=-5"),
        ("vae", "num_threads=0"),
        ("vae", "adam_beta1=2"),
        ("vae", "ema_decay=2"),
        ("vae", "max_grad_norm=0"),
        ("vae", "normalisation_count=0"),
        ("language-model", "long_share=7"),
        ("language-model", "max_tokens=0"),
        ("text-to-image", "caption_dropout=-1"),
        ("stage1", "noise_draws=0"),
        ("stage2", "max_tokens=0"),
    ],
)
def test_impossible_values_are_named_before_anything_is_built(stage: str, override: str) -> None:
    path = configs_folder() / "mini" / f"{stage}.yaml"
    with pytest.raises(ConfigError, match=override.partition("=")[0].replace(".", r"\.")):
        stage_config(stage, path, [override])
