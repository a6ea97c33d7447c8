"""`vlv data inspect`: what a dataset holds, as figures and as a page."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlv.cli.options.files import JsonOption, SourceArgument
from vlv.cli.options.headings import OUTPUT, PERFORMANCE
from vlv.cli.options.limits import DataEngineOption, RayAddressOption, WorkersOption
from vlv.text import counted, language_of, printable

if TYPE_CHECKING:
    from vlv.data.inspection.inspecting import Inspection


def inspect(
    source: SourceArgument,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            help="Write a page with plots and a contact sheet; an older page is replaced.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    decode: Annotated[
        bool,
        typer.Option(
            "--decode/--headers",
            help="Decode every image, or read only headers, which finds less damage.",
            rich_help_panel=PERFORMANCE,
        ),
    ] = True,
    workers: WorkersOption = None,
    engine: DataEngineOption = "processes",
    ray_address: RayAddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count what a dataset holds: sizes, formats, damaged images, captions, languages, duplicates.

    Damaged images are named, and the exit code is then 1.
    """
    from vlv.cli.common import Failures, progress, workers_of
    from vlv.data.inspection.inspecting import Inspection, inspected
    from vlv.data.inspection.page import write_page
    from vlv.data.inspection.summary import languages, summary
    from vlv.data.items import count_items, items, origins, with_readable_captions
    from vlv.data.remote.locations import shown_name
    from vlv.errors import ConfigError, DatasetError

    if html is not None and (html.is_dir() or not html.absolute().parent.is_dir()):
        raise ConfigError(f"--html {printable(html)} names no file in a folder that exists")
    language_of("")  # what it needs is missing now, or not after hours of decoding
    pool = workers_of(workers, engine, ray_address)
    name = shown_name(source)
    inside = origins([source])
    total = count_items(inside)
    steps = inspected(with_readable_captions(items(inside)), pool, decode=decode)
    found = Inspection()
    for found in progress(steps, total=total):  # noqa: B007
        pass
    if not found.total:
        raise DatasetError(f"{name} holds no image")
    spoken = languages(found)
    figures = summary(found, spoken)
    if html is not None:
        write_page(html, source, found, spoken)
    failures = Failures(as_json)
    failures.add(*found.refused_first)
    if more := found.refused.total() - failures.count:
        typer.echo(f"vlv: {more:,} more refused images are counted and not named", err=True)
    if as_json:
        typer.echo(json.dumps({"source": name, **figures}, ensure_ascii=False))
    else:
        typer.echo(_in_words(name, found, spoken, figures))
    if found.refused:
        raise typer.Exit(1)


def _in_words(
    name: str, found: "Inspection", spoken: Counter[str], figures: dict[str, object]
) -> str:
    """The figures on a few lines."""

    def counts(figure: str) -> str:
        found = figures[figure]
        assert isinstance(found, dict)
        return ", ".join(f"{key} {count:,}" for key, count in found.items()) or "none"

    def spread(figure: str) -> str:
        histogram = figures[figure]
        assert isinstance(histogram, dict)
        values = histogram["quantiles"]
        return f"{values[0]} to {values[-1]}, median {values[2]}" if values else "none"

    return "\n".join(
        [
            f"{name}: {counted(found.images, 'image')}, {found.captioned:,} captioned",
            f"refused: {counts('refused')}",
            f"formats: {counts('formats')}",
            f"shorter side: {spread('shorter_side')} pixels",
            f"aspect ratio: {spread('aspect_ratio')}",
            f"caption length: {spread('caption_words')} words",
            f"languages of {counted(spoken.total(), 'caption')}: {counts('languages')}",
            f"captions that repeat another: {figures['repeated_captions']:,}",
            f"files that are copies of another: {figures['copies_of_files']:,}",
        ]
    )
