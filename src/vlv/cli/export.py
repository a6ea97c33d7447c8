"""`vlv export`: the model of a run that goes on."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[
        Path, typer.Argument(help="The folder of a run: its output_dir.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to write; export-STEP in the run's folder if none."),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option("--step", min=0, help="Step of the checkpoint; the newest if none."),
    ] = None,
) -> None:
    """Write a model folder from a checkpoint of a training run, which may go on meanwhile.

    Run it in the folder where the run was started, so that paths in its config are found.
    """
    from vlv.training.exporting import export_run

    typer.echo(str(export_run(run, out, step)))
