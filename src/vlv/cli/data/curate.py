"""`vlv data curate`: from web metadata to links, and from downloaded images to a training set."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from vlv.cli.common import note, progress_bar, was_given, workers_of
from vlv.cli.options.files import JsonOption, TargetArgument
from vlv.cli.options.headings import INPUT, OUTPUT, SELECTION
from vlv.cli.options.limits import DataEngineOption, RayAddressOption, WorkersOption
from vlv.text import counted, printable

_OF_IMAGES = (
    *("duplicates", "max_distance", "keep_plain", "max_megapixels", "output_format", "shard_size"),
)


def curate(
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC",
            help="Parquet files of links, or images: a folder, .tar shards or parquet files.",
            show_default=False,
        ),
    ],
    target: TargetArgument,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            help="Keep only samples that fulfil a condition in SQL on their columns, such as "
            "'width > 512 and pwatermark < 0.5'. May be repeated.",
            rich_help_panel=SELECTION,
            show_default=False,
        ),
    ] = None,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper",
            help="The paper's filters: shorter side over 512, aspect ratio from 0.5 to 2, "
            "watermark probability below 0.5.",
            rich_help_panel=SELECTION,
        ),
    ] = False,
    drop_nsfw: Annotated[
        bool,
        typer.Option(
            "--drop-nsfw",
            help="Drop samples that are unsafe with a probability of 0.5 or more, or labelled so.",
            rich_help_panel=SELECTION,
        ),
    ] = False,
    blocklist: Annotated[
        Path | None,
        typer.Option(
            "--blocklist",
            help="File of words, domain:NAME and hash:VALUE, one a line, whose samples are "
            "dropped.",
            rich_help_panel=SELECTION,
            show_default=False,
        ),
    ] = None,
    duplicates: Annotated[
        Literal["near", "exact", "keep"],
        typer.Option(
            "--duplicates",
            help="near: drop images that look like an earlier one; exact: those with the same "
            "pixels; keep: none.",
            rich_help_panel=SELECTION,
        ),
    ] = "near",
    max_distance: Annotated[
        int,
        typer.Option(
            "--max-distance",
            min=0,
            max=32,
            help="Bits of 256 in which the hashes of near duplicates may differ.",
            rich_help_panel=SELECTION,
        ),
    ] = 12,
    keep_plain: Annotated[
        bool,
        typer.Option(
            "--keep-plain",
            help="Keep images of one colour and of nothing but text.",
            rich_help_panel=SELECTION,
        ),
    ] = False,
    max_megapixels: Annotated[
        float,
        typer.Option(
            "--max-megapixels",
            min=1,
            max=1000,
            help="Drop larger images. One megapixel takes about 10 MB of memory.",
            rich_help_panel=INPUT,
        ),
    ] = 50.0,
    output_format: Annotated[
        Literal["webdataset", "parquet"],
        typer.Option(
            "--output-format",
            help="Layout of the images that stay: .tar shards or parquet files.",
            rich_help_panel=OUTPUT,
        ),
    ] = "webdataset",
    shard_size: Annotated[
        int,
        typer.Option(
            "--shard-size",
            min=1,
            help="Images of a folder that are done at a time. Other sources keep their shards.",
            rich_help_panel=OUTPUT,
        ),
    ] = 1000,
    workers: WorkersOption = None,
    engine: DataEngineOption = "processes",
    ray_address: RayAddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Select what is worth training on, and record what was dropped and why.

    With metadata, SRC is parquet files with links: DST receives those that stay, and a command
    of img2dataset is printed that downloads them. With images, DST receives those that stay. Both
    write counts, histograms and examples to DST/curation.html. The same command continues a run
    that was interrupted, and gives the same files.
    """
    from vlv.cli.options.limits import pixels
    from vlv.data.curation.blocklist import Blocklist, read_blocklist
    from vlv.data.curation.job import Job, job_lock
    from vlv.data.curation.rules import rules_of
    from vlv.data.curation.running import curate as run
    from vlv.data.curation.source import columns_of_source, kind_of, shards_of
    from vlv.signals import exit_on_signals

    pool = workers_of(workers, engine, ray_address)
    kind = kind_of(source)
    if kind == "links":
        _refuse_options_of_images(context)
    rules = rules_of(
        where or [], paper=paper, drop_nsfw=drop_nsfw, columns=columns_of_source(source, kind)
    )
    blocked = Blocklist() if blocklist is None else read_blocklist(blocklist)
    with job_lock(target), exit_on_signals():
        job = Job(
            source,
            target,
            kind,
            shards_of(source, kind, target, shard_size),
            rules,
            blocked,
            duplicates,
            max_distance,
            keep_plain,
            output_format,
            pixels(max_megapixels),
        )
        curated = run(job, pool, _bar, note)
    for sentence in curated.lost:
        typer.echo(f"vlv: {printable(sentence)}", err=True)
    if as_json:
        typer.echo(json.dumps({"out": str(target), **curated.as_json()}))
    else:
        typer.echo(
            f"{printable(target)}: {curated.kept:,} of "
            f"{counted(curated.samples, 'link' if kind == 'links' else 'image')} kept"
        )
        for reason, count in curated.as_json()["dropped"].items():
            typer.echo(f"  {count:>12,} {reason}")
        if curated.downloads:
            typer.echo(
                f"Downloaded before: {curated.downloads['downloaded']:,} of "
                f"{counted(curated.downloads['links'], 'link')}."
            )
        if curated.command:
            typer.echo(f"Download them with:\n{curated.command}")
    if curated.lost:
        raise typer.Exit(1)


def _refuse_options_of_images(context: typer.Context) -> None:
    from vlv.errors import ConfigError

    for name in _OF_IMAGES:
        if was_given(context, name):
            raise ConfigError(
                f"--{name.replace('_', '-')} is for images, and SRC holds links; give it when "
                "their images are curated"
            )


@contextmanager
def _bar(description: str, unit: str, total: int, before: int) -> Iterator[Callable[[int], None]]:
    """A bar of shards or blocks, with the samples of this run beside it."""
    count = 0
    with progress_bar(total=total, initial=before, unit=unit, description=description) as bar:

        def done(samples: int) -> None:
            nonlocal count
            count += samples
            bar.set_postfix_str(f"{count:,} {description}", refresh=False)
            bar.update()

        yield done
