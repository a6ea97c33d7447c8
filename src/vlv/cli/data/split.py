"""`vlv data split`: a dataset in parts, such as training and validation."""

from typing import Annotated, Literal

import typer

from vlv.cli.data.conversion import Result, run_and_report
from vlv.cli.options.files import JsonOption, SourceArgument, TargetArgument


def split(
    source: SourceArgument,
    target: TargetArgument,
    fraction: Annotated[
        list[str],
        typer.Option(
            "--fraction",
            help="Name and share of a part, such as validation=5%; can be repeated.",
            show_default=False,
        ),
    ],
    result: Result,
    rest: Annotated[
        str, typer.Option("--rest", help="Name of the part that holds all other images.")
    ] = "train",
    by: Annotated[
        Literal["content", "key"],
        typer.Option(
            "--by",
            help="What decides: the image file, whose copies are then in one part, or its name.",
        ),
    ] = "content",
    seed: Annotated[
        int,
        typer.Option(
            "--seed", min=-(2**63), max=2**63 - 1, help="Another seed gives another split."
        ),
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Divide a dataset into parts, each in a folder of DST.

    The part of an image depends on the image and the seed alone. So a part keeps its images when
    the dataset grows, and copies of an image file are in the same part.
    """
    from vlv.data.converting.splitting import Split, parse_fractions

    job = result.job([source], target, split=Split(parse_fractions(fraction), rest, by, seed))
    run_and_report(job, result, as_json=as_json)
