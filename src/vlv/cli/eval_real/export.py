"""`vlv eval export`: captions in the form of a benchmark."""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from vlv.cli.options.files import JsonOption
from vlv.cli.options.headings import INPUT
from vlv.text import counted, printable


def export(
    captions: Annotated[
        Path,
        typer.Argument(
            metavar="CAPTIONS", help="What vlv eval captions wrote.", show_default=False
        ),
    ],
    format: Annotated[
        Literal["captionqa", "comprecap", "caparena", "detailcaps", "posh", "coco"],
        typer.Option("--format", help="The benchmark.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The JSON file to write.", show_default=False)
    ],
    references: Annotated[
        Path | None,
        typer.Option(
            "--references",
            help="The images with their captions, for detailcaps and posh.",
            show_default=False,
            rich_help_panel=INPUT,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write captions in the form that a benchmark of detailed captions reads.

    captionqa: CaptionQA; comprecap: CompreCap; caparena: CapArena-Auto; detailcaps: DetailCaps with
    CAPTURE; posh: PoSh, on DOCENT and others; coco: COCO's caption evaluation.
    """
    from vlv.cli.common import progress
    from vlv.evaluation.real.captions_file import read_captions
    from vlv.evaluation.real.exporting import export as write
    from vlv.evaluation.real.pairs import read_pairs

    lines = read_captions(captions)
    pairs = None
    if references is not None:
        with tempfile.TemporaryDirectory() as index_folder:
            pairs = read_pairs(references, Path(index_folder), None, progress)
    count = write(lines, format, out, pairs)
    if as_json:
        typer.echo(json.dumps({"out": str(out), "format": format, "captions": count}))
    else:
        left = len(lines) - count
        rest = f", {left:,} of images without a reference left out" if left else ""
        typer.echo(f"{printable(out)}: {counted(count, 'caption')}{rest}")
