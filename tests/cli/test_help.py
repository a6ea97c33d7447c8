"""Help: whole flags at any width, and nothing that is unexplained."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from vlv.cli.app import COMMANDS, build
from vlv.cli.options.headings import HEADINGS


@pytest.mark.parametrize("columns", [60, 80])
def test_help_shows_every_flag_whole(
    columns: int, vlv: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for path in COMMANDS:
        *_, name = path.split()
        text = vlv(*path.split(), "--help").out
        # Only arguments that may be repeated end in dots.
        assert "…" not in text and "..." not in re.sub(
            r"[]}]\.{3}|^  \w+\.{3}", "", text, flags=re.M
        )
        shown = set(re.findall(r"(?<![\w-])--?[a-z0-9][a-z0-9-]*", text))
        for param in _command(path).params:
            if param.param_type_name == "option" and not param.hidden:
                missing = {*param.opts, *param.secondary_opts} - shown
                assert not missing, f"{name} at {columns} columns"
    for group in ("", "eval", "convert", "world"):
        text = vlv(*group.split(), "--help").out
        names = {path.split()[-1] for path in COMMANDS if path.startswith(group)}
        assert "..." not in text.replace("[ARGS]...", "")
        assert all(f"  {name} " in text for name in names if group)


def _command(path: str) -> Any:
    group: Any = build()
    for name in path.split():
        group = group.commands[name]
    return group.load()


def test_everything_is_explained(vlv: Callable[..., Any]) -> None:
    for path in COMMANDS:
        command = _command(path)
        assert command.help
        for param in command.params:
            assert param.help or param.hidden, f"{path}: {param.name}"


def test_workers_are_one_per_core_or_one_per_model() -> None:
    """Where a model does not do the work, the commands do not differ."""
    defaults = {
        path: str(param.default if param.show_default is True else param.show_default)
        for path in COMMANDS
        for param in _command(path).params
        if param.name in ("workers", "count") and "--workers" in param.opts
    }
    assert defaults.pop("bulk").startswith("one per GPU")
    assert defaults.pop("data latents") == "0"
    assert len(defaults) == 7 and set(defaults.values()) == {"one per core"}, defaults


def test_options_stand_under_headings(vlv: Callable[..., Any]) -> None:
    text = vlv("caption", "--help").out
    found = [line.removesuffix(":") for line in text.splitlines() if re.match(r"[A-Z].*:$", line)]
    assert found[0] == "Arguments" and found[-1] == "Help"
    assert found[1:-1] == [heading for heading in HEADINGS if heading in found]
    assert len(found) > 5
