"""Tables by name: each has a config with a name of its own, and old names stay valid."""

from pathlib import Path

import pytest

from vlv.errors import ConfigError
from vlv.evaluation.ablations.self_training import SelfTrainingAblationConfig
from vlv.evaluation.registry import CHECKS, TABLES, table
from vlv.evaluation.reproduction import preset_folder, read_preset
from vlv.evaluation.results import Row, row_groups
from vlv.training.config import check_config


def test_every_config_has_a_name_of_its_own() -> None:
    names = [*TABLES, *CHECKS]
    found = [table(name) for name in names]
    assert [one.name for one in found] == names
    configs = {one.config.__name__ for one in found}
    assert len(configs) == len(names) and all(len(name) > len("Config") for name in configs)


def test_an_old_name_is_that_of_the_same_table(tmp_path: Path) -> None:
    assert table("self-teach") == table("self-training")
    preset = tmp_path / "preset"
    preset.mkdir()
    (preset / "self-teach.yaml").write_text("pairs: [7]\n")
    assert preset_folder(str(preset)) == preset
    (config,) = read_preset(preset).values()
    assert isinstance(config, SelfTrainingAblationConfig)
    assert config.pairs == [7]


def test_old_fields_of_self_training_are_read() -> None:
    old = {"alone_steps": [5], "teaching": {"max_train_steps": 3}}
    config = check_config(SelfTrainingAblationConfig, old, "of this test")
    assert (config.pairs_only_steps, config.round_stage2) == ([5], {"max_train_steps": 3})


def test_a_table_that_there_is_not_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean data-scale"):
        table("data-scales")


def test_rows_of_a_part_are_one_table_and_otherwise_those_that_share_a_figure() -> None:
    def row(name: str, part: str | None = None) -> Row:
        return Row({} if part is None else {"part": part}, 1, {name: None})  # type: ignore[dict-item]

    rows = [row("f1", "a"), row("f1", "b"), row("psnr", "a"), row("f1"), row("psnr"), row("f1")]
    assert row_groups(rows) == [[rows[0], rows[2]], [rows[1]], [rows[3], rows[5]], [rows[4]]]
