"""What `vlv eval NAME` measures: a set of real images or the embedded world, and which models."""

from pathlib import Path
from typing import Annotated

import typer

from vlv.cli.options.headings import INPUT
from vlv.errors import ConfigError
from vlv.text import printable

SetOrFieldsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SET]",
        help="Images: a folder, .tar shards, or parquet files. Without it, or with key=value "
        "fields: the table in the embedded world.",
        show_default=False,
    ),
]
CaptionFilesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--captions",
        help="NAME=FILE: a captioner and its captions file. May be repeated.",
        rich_help_panel=INPUT,
        show_default=False,
    ),
]


def set_of(words: list[str] | None) -> Path | None:
    """The set that the first word names; None where all words are fields of the embedded world's
    table, or there are none.

    Raises:
        ConfigError: other words follow the set, or a set follows fields.
    """
    if not words:
        return None
    sets = [word for word in words if "=" not in word or Path(word).exists()]
    if not sets:
        return None
    if len(words) > 1:
        raise ConfigError(
            f"{printable(sets[0])} is a set of real images, and stands alone: a set takes options, "
            "and key=value fields are of the table in the embedded world"
        )
    return Path(sets[0])


def named_models(words: list[str]) -> dict[str, str]:
    """The models of `NAME=MODEL` by name; a model alone has the name of its folder.

    Raises:
        ConfigError: two models have one name.
    """
    named: list[tuple[str, str]] = []
    for word in words:
        name, sign, model = word.partition("=")
        if not (sign and name and model):
            name, model = Path(word).name or word, word
        named.append((name, model))
    check_names("models", [name for name, _ in named], "--model NAME=MODEL")
    return dict(named)


def check_names(what: str, names: list[str], how: str) -> None:
    """Raise ConfigError where two of what is compared have one name. how: they are named."""
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"two {what} are called {printable(min(twice))}; name them, as in {how}")
