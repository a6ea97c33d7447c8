"""`vlv data sentence-labels`: what people said of sentences, out of the tool they said it in."""

from pathlib import Path
from typing import Annotated

import typer

from vlv.cli.options.files import OverwriteOption
from vlv.cli.options.headings import OUTPUT
from vlv.text import counted, printable


def sentence_labels(
    export: Annotated[
        Path,
        typer.Argument(
            help="A folder that FiftyOne exported as FiftyOneDataset or LegacyFiftyOneDataset, or "
            "a file that Label Studio exported as JSON.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="The file to write: a line of JSON for each caption.",
            rich_help_panel=OUTPUT,
        ),
    ],
    overwrite: OverwriteOption = False,
) -> None:
    """Write the sentence labels in an export of FiftyOne or Label Studio as lines of JSON.

    Each line has `file_name`, and `sentences` with `text` and `label`. Captions that nobody has
    labelled are left out and counted.
    """
    from vlv.integrations.sentence_marks.marks import read_labels, write_labels

    found = read_labels(export)
    write_labels(found.captions, out, overwrite=overwrite)
    left = f", {found.unlabelled:,} without labels left out" if found.unlabelled else ""
    sentences = sum(len(one.sentences) for one in found.captions)
    typer.echo(
        f"{counted(len(found.captions), 'caption')} with {counted(sentences, 'sentence')} written "
        f"to {printable(out)}{left}"
    )
