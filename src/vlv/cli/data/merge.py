"""`vlv data merge`: several datasets as one."""

from pathlib import Path
from typing import Annotated

import typer

from vlv.cli.data.conversion import Result, run_and_report
from vlv.cli.options.files import JsonOption


def merge(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Datasets in any layouts, and last the folder to write.",
            show_default=False,
        ),
    ],
    result: Result,
    as_json: JsonOption = False,
) -> None:
    """Write several datasets as one, in the order in which they are named.

    Of images with the same name, the later ones get a number at the end of their names.
    """
    from vlv.errors import ConfigError

    *sources, target = paths
    if not sources:
        raise ConfigError("name one dataset at least, and then the folder to write")
    run_and_report(result.job(sources, target), result, as_json=as_json)
