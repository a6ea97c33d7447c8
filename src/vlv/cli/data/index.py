"""`vlv data index`: where every sample of a set's shards lies, found once for all runs."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlv.cli.common import Failures, progress, usable_cores
from vlv.cli.options.files import JsonOption
from vlv.cli.options.limits import WorkersOption
from vlv.text import counted, printable

if TYPE_CHECKING:
    from vlv.data.set_index import ShardRecord


def index(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC",
            help="The .tar shards or parquet files of a dataset: a folder or a quoted pattern, on "
            "disk or at a URL.",
            show_default=False,
        ),
    ],
    workers: WorkersOption = None,
    index_folder: Annotated[
        Path,
        typer.Option("--index-folder", help="data.index_folder of the training run."),
    ] = Path("runs/indexes"),
    format: Annotated[
        Literal["webdataset", "parquet"] | None,
        typer.Option("--format", help="Format of the dataset.", show_default="by its files"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Index a dataset for training, which otherwise does it itself in one process.

    The same command continues one that was stopped, and reads only shards that have changed since.
    Damaged shards and samples are left out and named, and the exit code is then 1.
    """
    from vlv.data.indexing import open_index
    from vlv.data.sets import detect_format, files_of
    from vlv.errors import ConfigError
    from vlv.inference.records import Refused

    found_format = format or detect_format(source)
    if found_format == "folder":
        raise ConfigError(
            f"{printable(source)} is a folder of images, which needs no index; name one of .tar "
            "shards or parquet files"
        )
    files = files_of(source, found_format)

    def watch(records: "Iterable[ShardRecord]") -> "Iterable[ShardRecord]":
        return progress(records, total=len(files), unit="shard", description="index")

    made = open_index(files, index_folder, workers=workers or usable_cores(), watch=watch)
    failures = Failures(as_json)
    for shard, problem in made.record.problems:
        reason = "damaged-sample" if problem.key else "damaged-shard"
        name = f"{shard.name}/{problem.key}" if problem.key else shard.name
        failures.add(Refused(name, reason, problem.message))
    samples = sum(shard.samples for shard in made.record.shards)
    if as_json:
        counts = {"samples": samples, "shards": len(files), "problems": failures.count}
        typer.echo(json.dumps({"index": str(made.path), **counts}))
    else:
        shards = counted(len(files), "shard")
        typer.echo(f"{printable(made.path)}: {counted(samples, 'sample')} in {shards}")
    failures.exit()
