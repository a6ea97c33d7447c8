"""Old names of commands and flags keep working, and one line names the new one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlv.cli import renamed
from vlv.cli.app import COMMANDS


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("familiarity", "ood-detector"),
        ("eval familiarity", "eval ood"),
        ("eval self-teach", "eval self-training"),
        ("eval self_teach", "eval self-training"),
    ],
)
def test_old_commands_are_the_new_ones(old: str, new: str, vlv: Callable[..., Any]) -> None:
    ran, expected = vlv(*old.split(), "--help"), vlv(*new.split(), "--help")
    assert (ran.code, ran.out) == (0, expected.out)
    spelled = old.replace("_", "-")
    assert ran.err == f"vlv: `vlv {spelled}` is called `vlv {new}` now\n"
    assert expected.err == ""


@pytest.mark.parametrize("flag", ["--skip-unfamiliar", "--skip_unfamiliar"])
def test_old_flags_do_what_the_new_ones_do(
    flag: str, pictures: Path, tiny_model_dir: Path, vlv: Callable[..., Any]
) -> None:
    model = ("--model", tiny_model_dir)
    ran, expected = (
        vlv("caption", pictures, flag, *model),
        vlv("caption", pictures, "--skip-ood", *model),
    )
    notice = f"vlv: `{flag}` is called `--skip-ood` now\n"
    assert (ran.code, ran.out, ran.err) == (expected.code, expected.out, notice + expected.err)
    assert "--skip-ood" in expected.err  # the tiny model has no detector


def test_what_a_command_writes_has_one_name_everywhere(
    vlv: Callable[..., Any], tmp_path: Path
) -> None:
    """Commands call it --out or --output."""
    for number, flag in enumerate(("-o", "--out", "--output")):
        ran = vlv("world", "render", "--count", 1, flag, tmp_path / str(number))
        assert (ran.code, ran.err) == (0, ""), ran
        assert (tmp_path / str(number) / "000000000.png").is_file()
    ran = vlv("eval", "mini", f"--out={tmp_path / 'missing' / 'x.json'}", "no_field=1")
    assert ran.code == 2 and "no_field" in ran.err


def test_what_is_no_flag_stays_as_it_is(vlv: Callable[..., Any], tmp_path: Path) -> None:
    ran = vlv("caption", "--", tmp_path / "a.png", "--skip-unfamiliar")
    assert ran.code == 1 and "is called" not in ran.err
    ran = vlv("doctor", "--skip-unfamiliar")  # which never had that flag
    assert ran.code == 2 and "is called" not in ran.err


def test_old_names_lead_to_commands_that_exist(vlv: Callable[..., Any]) -> None:
    for old, new in renamed.COMMANDS.items():
        *group, _ = old.split()
        assert " ".join([*group, new]) in COMMANDS and old not in COMMANDS
    assert "familiar" not in vlv("--help").out + vlv("caption", "--help").out
