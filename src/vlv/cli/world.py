"""`vlv world render`: a dataset of rendered scenes."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from vlv.cli.options.drawing import SeedOption
from vlv.cli.options.files import OverwriteOption
from vlv.cli.options.limits import WorkersOption
from vlv.text import printable


def render(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder to write. It must not exist yet.")
    ],
    count: Annotated[int, typer.Option("--count", min=1, help="Number of scenes.")] = 100,
    seed: SeedOption = 0,
    split: Annotated[
        Literal["train", "test", "unseen-pairs", "unseen-counts"],
        typer.Option("--split", help="Distribution of the scenes."),
    ] = "test",
    format: Annotated[
        Literal["folder", "webdataset", "parquet"],
        typer.Option("--format", help="Format on disk."),
    ] = "folder",
    shard_size: Annotated[
        int, typer.Option("--shard-size", min=1, help="Scenes per .tar or parquet file.")
    ] = 10_000,
    workers: WorkersOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write images of random scenes, their captions, and their facts in scenes.jsonl.

    The same count, seed and split give the same files, byte by byte.
    """
    from vlv.cli.common import progress, usable_cores
    from vlv.data.world_sets import render_world, world_samples

    samples = world_samples(count, seed=seed, split=split, workers=workers or usable_cores())
    written = render_world(
        iter(progress(samples, total=count, unit="scene")),
        out,
        format=format,
        shard_size=shard_size,
        overwrite=overwrite,
    )
    typer.echo(f"{printable(out)}: {written} scenes of split {split}, seed {seed}, format {format}")
