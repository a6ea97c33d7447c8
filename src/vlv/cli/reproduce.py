"""`vlv reproduce`: measures the claims of the paper, or runs all stages of training."""

from pathlib import Path
from typing import Annotated

import typer

# Presets that train. All others measure.
TRAINING = ("decoders/mini", "decoders/mini-unet", "mini", "mini-gpu")


def reproduce(
    preset: Annotated[
        str,
        typer.Option(
            help="quick or full: a report; mini, mini-gpu, decoders/mini or decoders/mini-unet: "
            "training; or a folder of configs."
        ),
    ] = "quick",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The folder of the report.", show_default="vlv-report"),
    ] = None,
    tables: Annotated[
        str | None,
        typer.Option(
            help="Measure these tables of a report only, such as mini,fid. The others are taken "
            "as they are in OUTPUT, and left out if they are not there.",
            show_default="all",
        ),
    ] = None,
    render_only: Annotated[
        bool,
        typer.Option(
            "--render-only", help="Measure nothing: write the pages of the results in OUTPUT."
        ),
    ] = False,
) -> None:
    """Measure the claims of the paper, and write report.html and report.md.

    An interrupted report continues when the same command is given again. To measure a table again,
    remove its file in OUTPUT/results. A result is also measured again if its config, the weights
    or the renderer of the scenes have changed; --render-only takes every result as it is. quick
    takes about five minutes on two cores. mini and mini-gpu instead train the mini model from
    scratch, all stages in order; decoders/mini and decoders/mini-unet train on its VAE what `vlv
    eval decoders` compares.
    """
    from vlv.cli.train import show_progress
    from vlv.errors import ConfigError
    from vlv.evaluation.reproduction import preset_folder, presets

    folder = preset_folder(preset)
    show_progress()
    if folder is not None:
        if tables is not None and render_only:
            raise ConfigError("--render-only measures no table; leave out --tables")
        names = None if tables is None else [name.strip() for name in tables.split(",")]
        _report(folder, output or Path("vlv-report"), names, render_only)
        return
    if preset not in TRAINING:
        raise ConfigError(
            f"there is no preset {preset!r}; the presets are {', '.join(TRAINING)} (training), "
            f"{', '.join(presets())} (reports), or a folder of a report's configs"
        )
    if output is not None:
        raise ConfigError(
            f"--output works for reports only; the configs of {preset} name their folders"
        )
    if tables is not None:
        raise ConfigError(f"--tables works for reports only; {preset} trains")
    if render_only:
        raise ConfigError(f"--render-only works for reports only; {preset} trains")

    from vlv.training.reproduce import reproduce as train_all

    typer.echo(str(train_all(preset)))


def _report(folder: Path, output: Path, tables: list[str] | None, render_only: bool) -> None:
    from vlv.cli.common import progress
    from vlv.evaluation.report.pages import write_report
    from vlv.evaluation.reproduction import kept_report, reproduce

    if render_only:
        report = kept_report(folder, output)
    else:
        report = reproduce(folder, output, progress, tables)
    for page in write_report(report, output):
        typer.echo(str(page))
    for failure in report.failures:
        typer.echo(f"vlv: {failure.name} could not be measured: {failure.error}", err=True)
    if report.failures:
        raise typer.Exit(1)
