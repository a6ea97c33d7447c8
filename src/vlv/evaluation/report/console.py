"""Reports as JSON and as tables. Measures nothing."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from vlv.evaluation.floors import Floor
from vlv.evaluation.metrics.columns import COLUMNS, cell, column, label_text
from vlv.evaluation.metrics.statistics import Figure
from vlv.evaluation.results import Result, Row, without_nan
from vlv.evaluation.tables.mini import MiniReport, PictureRow
from vlv.world.scene import SHAPES

PICTURE_FIGURES = (
    *("f1", "centre_error", "pixel_error", "count_accuracy", "size_accuracy", "material_accuracy"),
    *("rotation_error", "floor_accuracy", "light_accuracy", "frechet"),
)
SHAPE_FIGURES = (
    *("f1", "f1_any_shape", "f1_any_color"),
    *(f"{shape}_accuracy" for shape in SHAPES),
)
_GUIDANCE_FIGURES = ("f1", "centre_error", "pixel_error", "frechet")
_CAPTION_FIGURES = (
    *("precision", "recall", "object_recall", "hallucinated", "flawless", "readable", "ended"),
    "words",
)
SOURCE_NAMES = {
    "renders": "true renders",
    "vae": "VAE round trip",
    "true-captions": "true captions",
    "embeddings": "embeddings z",
    "embeddings-before-stage2": "z before stage 2",
    "generated-captions": "generated captions",
    "generated": "generated from z",
    "shuffled-z": "control: shuffled z",
    "mean-z": "control: mean z",
    "unconditional": "control: unconditional",
    "random-captions": "control: random captions",
}
PICTURE_NOTE = (
    "F1: objects with the right shape and colour. Centre error: of objects found, in world units "
    "on the floor (a small object's radius is 0.68). Pixel error: mean absolute difference, of "
    "255. Fréchet*: on features of the inspector, not Inception; compare rows of equally many "
    "scenes only."
)
_SHAPE_NOTE = (
    "Any shape, any colour: what F1 is where one of the two is not asked. Spheres to cones: the "
    "share that is drawn as one, of such objects as are found when shapes are not asked."
)


def to_json(report: MiniReport) -> dict[str, Any]:
    """The report as JSON values; what could not be measured is null."""
    data = asdict(report)
    for entry, floor in zip(data["floors"], report.floors, strict=True):
        entry["met"] = floor.met
    cleaned: dict[str, Any] = without_nan(data)
    return cleaned


def print_report(report: MiniReport, console: Console) -> None:
    """Print the tables and the floors."""
    console.print(
        Group(
            _picture_table("Pictures", report.pictures, PICTURE_FIGURES),
            PICTURE_NOTE,
            "",
            _picture_table("Shapes and colours", report.pictures, SHAPE_FIGURES),
            _SHAPE_NOTE,
            "",
            *_guidance_tables(report.guidance),
            "",
            _caption_table(report.captions),
            "",
            _floor_table(report.floors),
        )
    )


def _picture_table(title: str, rows: list[PictureRow], names: Sequence[str]) -> Table:
    table = Table(title=f"{title}, {rows[0].count} scenes", title_justify="left")
    table.add_column("drawn from")
    table.add_column("guidance", justify="right")
    _add_columns(table, names)
    for row in rows:
        name = SOURCE_NAMES[row.source]
        scale = "" if row.guidance_scale is None else f"{row.guidance_scale:g}"
        table.add_row(name, scale, *_cells(row.figures, names))
    return table


def _guidance_tables(rows: list[PictureRow]) -> list[Table]:
    """A table a figure: sources by guidance scales, as in the paper."""
    scales = sorted({row.guidance_scale for row in rows if row.guidance_scale is not None})
    tables = []
    for name in _GUIDANCE_FIGURES:
        title = f"{COLUMNS[name].heading} by guidance scale, first {rows[0].count} scenes"
        table = Table(title=title, title_justify="left")
        table.add_column("drawn from")
        for scale in scales:
            table.add_column(f"{scale:g}", justify="right")
        for source in dict.fromkeys(row.source for row in rows):
            cells = [cell(row.figures[name], COLUMNS[name]) for row in rows if row.source == source]
            table.add_row(SOURCE_NAMES[source], *cells)
        tables.append(table)
    return tables


def _caption_table(captions: dict[str, dict[str, Figure]]) -> Table:
    table = Table(title="Captions", title_justify="left")
    table.add_column("captions")
    _add_columns(table, _CAPTION_FIGURES)
    for source, figures in captions.items():
        table.add_row(SOURCE_NAMES[source], *_cells(figures, _CAPTION_FIGURES))
    return table


def _floor_table(floors: list[Floor]) -> Table:
    table = Table(title="Floors", title_justify="left")
    table.add_column("demand")
    for heading in ("least", "reached", "95% interval"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for floor in floors:
        figure = floor.figure
        table.add_row(
            floor.name,
            f"{floor.least:g}",
            f"{figure.value:.3f}",
            f"{figure.low:.3f} to {figure.high:.3f}",
            "met" if floor.met else "missed",
        )
    return table


def _add_columns(table: Table, names: Sequence[str]) -> None:
    for name in names:
        table.add_column(column(name).heading, justify="right")


def _cells(figures: dict[str, Figure], names: Sequence[str]) -> list[str]:
    return [cell(figures[name], column(name)) if name in figures else "—" for name in names]


def print_result(result: Result, console: Console) -> None:
    """Print one table of `vlv eval`, and what it says of the paper's claims."""
    console.print(f"{result.title} ({result.paper})", style="italic")
    for _, rows in groupby(result.rows, lambda row: row.labels.get("part")):
        console.print(_table(list(rows)))
    for note in result.notes:
        console.print(note)
    for claim in result.claims:
        figure = claim.difference
        console.print(
            f"[bold]{claim.verdict}[/bold]: {claim.statement} ({claim.measure}: "
            f"{figure.value:+.3f}, 95% {figure.low:+.3f} to {figure.high:+.3f}; {claim.paper})"
        )


def _table(rows: Sequence[Row]) -> Table:
    labels = list(dict.fromkeys(name for row in rows for name in row.labels))
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    table = Table()
    for label in labels:
        table.add_column(label)
    _add_columns(table, names)
    table.add_column("n", justify="right")
    for row in rows:
        told = [label_text(row.labels.get(label, "")) for label in labels]
        table.add_row(*told, *_cells(row.figures, names), str(row.count))
    return table
