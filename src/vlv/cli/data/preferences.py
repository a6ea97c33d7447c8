"""`vlv data preferences`: words of a model's own captions, judged by its frozen decoder."""

from pathlib import Path
from typing import Annotated

import typer


def preferences(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key=value: overrides of config fields, such as images=1000."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of the run.")] = None,
) -> None:
    """Let a model caption images, and the frozen decoder judge words of these captions.

    The file is for `vlv train preferences`. An interrupted command goes on where it was.
    """
    from vlv.cli.train import show_progress
    from vlv.errors import ConfigError
    from vlv.training.config import load_config
    from vlv.training.preference_data import FILE, PreferenceDataConfig, make_preferences

    if config is None and not overrides:
        raise ConfigError("which run? give --config FILE, or fields as key=value")
    show_progress()
    typer.echo(str(make_preferences(load_config(PreferenceDataConfig, config, overrides)) / FILE))
