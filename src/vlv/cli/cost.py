"""`vlv cost`: the bill of a training run before it is run."""

from pathlib import Path
from typing import Annotated

import typer

from vlv.cli.options.files import JsonOption
from vlv.cli.train import Overrides


def cost(
    config: Annotated[Path, typer.Argument(help="YAML file of the run.")],
    overrides: Overrides = None,
    stage: Annotated[
        str | None,
        typer.Option(help="stage1 or stage2; by default what the fields of the file are of."),
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="The GPU to train on, such as h100 or rtx-4090.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="How many of them: a process on each.")] = 1,
    price: Annotated[float | None, typer.Option(min=0, help="USD for an hour of one GPU.")] = None,
    mfu: Annotated[
        float | None,
        typer.Option(
            help="Assumed share of the GPU's peak at which all operations run, those that "
            "checkpointing computes again too; 0.4 by default.",
            min=0.001,
            max=1,
        ),
    ] = None,
    caption_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of a caption; 227 by default, the mean of the paper."),
    ] = None,
    encoder_image_size: Annotated[
        int | None,
        typer.Option(
            min=32, help="Side of the encoder's pictures in pixels; by default the model's."
        ),
    ] = None,
    measure: Annotated[
        int | None,
        typer.Option(min=1, help="Run this many steps on this machine, and extrapolate."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print what a run of stage 1 or 2 will take: operations, memory, disk, time and money.

    Nothing is downloaded and no weights are read: the operations are counted. Time and money need
    --gpu, or --measure on this machine.
    """
    import json

    from vlv.training.cost.gpus import gpu_named
    from vlv.training.cost.text import bill_json, bill_text
    from vlv.training.pricing import price_run

    bill = price_run(
        config,
        overrides or [],
        stage=stage,
        gpu=None if gpu is None else gpu_named(gpu),
        processes=gpus,
        price=price,
        mfu=mfu,
        caption_tokens=caption_tokens,
        encoder_image_size=encoder_image_size,
        measure=measure,
    )
    typer.echo(json.dumps(bill_json(bill), indent=1) if as_json else bill_text(bill))
