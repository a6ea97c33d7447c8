"""`vlv data latents`: what training computes of every picture again and again, computed once."""

import json
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import typer

from vlv.cli.common import Failures, progress
from vlv.cli.options.files import JsonOption, OverwriteOption
from vlv.cli.options.headings import MODEL, OUTPUT, PERFORMANCE
from vlv.cli.options.model import DEFAULT_MODEL, DeviceOption, ModelOption
from vlv.text import counted, printable


def latents(
    data: Annotated[
        Path,
        typer.Argument(
            help="A dataset of images: a folder, .tar shards or parquet.", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The folder to write.", rich_help_panel=OUTPUT),
    ],
    model: ModelOption = DEFAULT_MODEL,
    pictures: Annotated[
        bool,
        typer.Option(
            "--pictures",
            help="Keep the decoded, cropped pictures too, so that training decodes no image.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    precision: Annotated[
        Literal["no", "bf16", "auto"],
        typer.Option(
            "--precision", help="mixed_precision of the training run.", rich_help_panel=MODEL
        ),
    ] = "no",
    device: DeviceOption = None,
    format: Annotated[
        Literal["folder", "webdataset", "parquet"] | None,
        typer.Option("--format", help="Format of the dataset.", show_default="by its files"),
    ] = None,
    index_folder: Annotated[
        Path,
        typer.Option("--index-folder", help="Cache of the positions of samples in shards."),
    ] = Path("runs/indexes"),
    shard_size: Annotated[
        int, typer.Option("--shard-size", min=1, help="Pictures per file.", rich_help_panel=OUTPUT)
    ] = 10_000,
    batch_size: Annotated[
        int,
        typer.Option("--batch-size", min=1, help="Images per batch.", rich_help_panel=PERFORMANCE),
    ] = 32,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            min=0,
            help="Processes that decode images; 0 is the command itself.",
            rich_help_panel=PERFORMANCE,
        ),
    ] = 0,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Cache the VAE's latents of a dataset, for `data.latents` of stages 1 and 2.

    The disk space is shown first. A command that was stopped goes on with the shard that it was at.
    Images that cannot be read are named, and training replaces them as it does without a cache.
    """
    from vlv.checkpoints.manifest import component_folder
    from vlv.checkpoints.memory import Work
    from vlv.data.image_sets import open_image_set
    from vlv.inference.loading import open_model
    from vlv.inference.records import Refused
    from vlv.models.precision import mixed_precision
    from vlv.training.latent_caching import (
        fill_cache,
        gigabytes,
        open_vae,
        plan_cache,
        refusals,
    )
    from vlv.training.samples.set_latents import CacheContents, CacheKey

    opened = open_model(model, device=device, work=Work(("decoder",), batch_size))
    opened.require("vae")
    assert opened.folder is not None  # it was opened from one
    vae = open_vae(component_folder("vae", opened.folder))
    images = open_image_set(data, format=format, index_folder=index_folder)
    key = CacheKey.of(
        vae,
        images,
        opened.manifest.config.decoder_image_size,
        mixed_precision(precision, opened.device),
    )
    contents = CacheContents(**key.model_dump(), pictures=pictures, shard_size=shard_size)
    plan = plan_cache(out, contents, overwrite=overwrite)
    typer.echo(
        f"vlv: {plan.pictures_left:,} of {counted(contents.count, 'image')} to do, "
        f"{gigabytes(plan.bytes_left)} of disk space, {gigabytes(plan.bytes_free)} free",
        err=True,
    )
    plan.check_room()
    failures = Failures(as_json)
    for one in refusals(plan):
        failures.add(Refused(one.name, one.reason, one.message))
    made = fill_cache(plan, images, vae.to(opened.device), batch_size=batch_size, workers=workers)
    done = progress(made, total=plan.pictures_left, description="latents")
    for one in chain.from_iterable(done):
        failures.add(Refused(one.name, one.reason, one.message))
    size = contents.count * contents.bytes_each
    if as_json:
        found = {"images": contents.count, "refused": failures.count, "bytes": size}
        typer.echo(json.dumps({"out": str(out), **found}))
    else:
        typer.echo(
            f"{printable(out)}: latents of {contents.count - failures.count:,} of "
            f"{counted(contents.count, 'image')}, {gigabytes(size)}"
        )
    failures.exit()
