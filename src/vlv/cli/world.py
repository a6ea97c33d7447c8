"""`vlv world render`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from vlv.cli.options import OverwriteOption, SeedOption
from vlv.text import printable


def render(
    out: Annotated[Path, typer.Option("--out", help="Folder to write; it must not exist yet.")],
    count: Annotated[int, typer.Option("--count", min=1, help="Number of scenes.")] = 100,
    seed: SeedOption = 0,
    split: Annotated[
        Literal["train", "test", "unseen-pairs", "unseen-counts"],
        typer.Option("--split", help="Distribution that the scenes are drawn from."),
    ] = "test",
    format: Annotated[
        Literal["folder", "webdataset", "parquet"],
        typer.Option("--format", help="Layout on disk."),
    ] = "folder",
    shard_size: Annotated[
        int, typer.Option("--shard-size", min=1, help="Scenes in a tar or parquet file.")
    ] = 10_000,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes; one a core if not given.")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write images of random scenes, their captions, and the truth in scenes.jsonl.

    The same count, seed and split give the same bytes.
    """
    from vlv.cli.machine import usable_cores
    from vlv.cli.progress import progress
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
