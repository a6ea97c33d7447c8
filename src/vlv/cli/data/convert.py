"""`vlv data convert`: a dataset in another layout, at another size, in another image format."""

from typing import Annotated, Literal

import typer

from vlv.cli.data.conversion import Result, run_and_report
from vlv.cli.options.files import JsonOption, SourceArgument, TargetArgument
from vlv.cli.options.headings import OUTPUT


def convert(
    source: SourceArgument,
    target: TargetArgument,
    result: Result,
    resize: Annotated[
        int | None,
        typer.Option(
            "--resize",
            min=1,
            max=16384,
            help="Make every image a square of this side: scale the shorter side, cut out the "
            "middle, as training does.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    shorter_side: Annotated[
        int | None,
        typer.Option(
            "--shorter-side",
            min=1,
            help="Reduce images whose shorter side is longer than this.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    max_side: Annotated[
        int | None,
        typer.Option(
            "--max-side",
            min=1,
            help="Reduce images whose longer side is longer than this.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    image_format: Annotated[
        Literal["jpeg", "png", "webp"] | None,
        typer.Option(
            "--image-format",
            help="Format of every image.",
            rich_help_panel=OUTPUT,
            show_default="its own",
        ),
    ] = None,
    quality: Annotated[
        int,
        typer.Option(
            "--quality", min=1, max=100, help="Quality of JPEG and WebP.", rich_help_panel=OUTPUT
        ),
    ] = 95,
    as_json: JsonOption = False,
) -> None:
    """Write a dataset in another layout, with other sizes or another image format.

    Images that need no change keep their files, byte by byte. Captions, all texts and metadata are
    kept. Damaged images are named and left out. The same command continues a run that was
    interrupted.
    """
    from vlv.data.converting.change import Change

    change = Change(resize, shorter_side, max_side, image_format, quality)
    run_and_report(result.job([source], target, change=change), result, as_json=as_json)
