"""What `vlv data convert`, `split` and `merge` share: options of the result, and the report."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vlv.cli.options.headings import OUTPUT
from vlv.cli.options.limits import DataEngineOption, RayAddressOption, WorkersOption
from vlv.text import counted, printable

if TYPE_CHECKING:
    from vlv.data.converting.job import Job

_IMAGES = "Images"


@dataclass(frozen=True)
class Result:
    """How the result is written."""

    output_format: Annotated[
        Literal["folder", "webdataset", "parquet"] | None,
        typer.Option(
            "--output-format",
            help="Layout of the result.",
            rich_help_panel=OUTPUT,
            show_default="that of SRC",
        ),
    ] = None
    shard_size: Annotated[
        int,
        typer.Option(
            "--shard-size",
            min=1,
            help="The most images per .tar or parquet file. A run goes on from the last one.",
            rich_help_panel=OUTPUT,
        ),
    ] = 10_000
    shard_megabytes: Annotated[
        int,
        typer.Option(
            "--shard-megabytes",
            min=1,
            help="The most megabytes of images per .tar or parquet file.",
            rich_help_panel=OUTPUT,
        ),
    ] = 1000
    workers: WorkersOption = None
    engine: DataEngineOption = "processes"
    ray_address: RayAddressOption = None

    def job(self, sources: Iterable[Path], target: Path, **work: Any) -> "Job":
        """A job that writes its result so. work: its `change` or `split`."""
        from vlv.data.converting.job import Job

        return Job(
            tuple(sources),
            target,
            self.output_format,
            shard_size=self.shard_size,
            shard_bytes=self.shard_megabytes * 1_000_000,
            **work,
        )


def run_and_report(job: "Job", result: Result, *, as_json: bool) -> None:
    """Do a job with a progress bar, name what is left out, and say what there is now."""
    from vlv.cli.common import Failures, progress_bar, workers_of
    from vlv.data.converting.job import run_job, settings_of

    workers = workers_of(result.workers, result.engine, result.ray_address)
    failures = Failures(as_json)
    with progress_bar() as bar:
        outcome = run_job(
            job,
            workers,
            planned_for=bar.reset,
            seen=partial(bar.update, 1),
            refused=failures.add,
        )
    if outcome.renamed:
        old, new = outcome.renamed_first[0]
        have = "image has" if outcome.renamed == 1 else "images have"
        typer.echo(
            f"vlv: note: {outcome.renamed:,} {have} another name than in their source, which "
            f"was taken or cannot be written ({printable(old)} is {printable(new)})",
            err=True,
        )
    if as_json:
        typer.echo(json.dumps({"out": str(job.target), **settings_of(outcome)}))
    else:
        for part, images in outcome.images.items():
            files = f", {counted(outcome.shards[part], 'shard')}" if images else ""
            typer.echo(f"{printable(job.target / part)}: {counted(images, 'image')}{files}")
    failures.exit()
