"""Reports as JSON and as tables. Measures nothing."""

import math
from dataclasses import asdict
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from vlv.evaluation.floors import Floor
from vlv.evaluation.metrics import Figure
from vlv.evaluation.mini import MiniReport, PictureRow

# Name of a figure -> (heading, decimals, factor).
_Columns = dict[str, tuple[str, int, int]]
_PICTURE_COLUMNS: _Columns = {
    "f1": ("F1", 3, 1),
    "centre_error": ("centre error", 3, 1),
    "pixel_error": ("pixel error", 1, 1),
    "count_accuracy": ("count %", 1, 100),
    "size_accuracy": ("size %", 1, 100),
    "material_accuracy": ("material %", 1, 100),
    "rotation_error": ("rotation °", 1, 1),
    "floor_accuracy": ("floor %", 1, 100),
    "light_accuracy": ("light %", 1, 100),
    "frechet": ("Fréchet*", 2, 1),
}
_GUIDANCE_COLUMNS = {
    name: _PICTURE_COLUMNS[name] for name in ("f1", "centre_error", "pixel_error", "frechet")
}
_CAPTION_COLUMNS: _Columns = {
    "precision": ("precision %", 1, 100),
    "recall": ("recall %", 1, 100),
    "object_recall": ("objects %", 1, 100),
    "hallucinated": ("invented %", 1, 100),
    "flawless": ("flawless %", 1, 100),
    "readable": ("readable %", 1, 100),
    "ended": ("ended %", 1, 100),
    "words": ("words", 1, 1),
}
_SOURCES = {
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
_PICTURE_NOTE = (
    "F1: objects with the right shape and colour. Centre error: of objects found, in world units "
    "on the floor (a small object's radius is 0.68). Pixel error: mean absolute difference, of "
    "255. Fréchet*: on features of the inspector, not Inception; compare rows of equally many "
    "scenes only."
)


def to_json(report: MiniReport) -> dict[str, Any]:
    """The report as JSON values; what could not be measured is null."""
    data = asdict(report)
    for entry, floor in zip(data["floors"], report.floors, strict=True):
        entry["met"] = floor.met
    cleaned: dict[str, Any] = _without_nan(data)
    return cleaned


def print_report(report: MiniReport, console: Console) -> None:
    """Print the tables and the floors."""
    console.print(
        Group(
            _picture_table(report.pictures),
            _PICTURE_NOTE,
            "",
            *_guidance_tables(report.guidance),
            "",
            _caption_table(report.captions),
            "",
            _floor_table(report.floors),
        )
    )


def _picture_table(rows: list[PictureRow]) -> Table:
    table = Table(title=f"Pictures, {rows[0].count} scenes", title_justify="left")
    table.add_column("drawn from")
    table.add_column("guidance", justify="right")
    _add_columns(table, _PICTURE_COLUMNS)
    for row in rows:
        name = _SOURCES[row.source]
        scale = "" if row.guidance_scale is None else f"{row.guidance_scale:g}"
        table.add_row(name, scale, *_cells(row.figures, _PICTURE_COLUMNS))
    return table


def _guidance_tables(rows: list[PictureRow]) -> list[Table]:
    """A table a figure: sources by guidance scales, as in the paper."""
    scales = sorted({row.guidance_scale for row in rows if row.guidance_scale is not None})
    tables = []
    for name, (heading, decimals, factor) in _GUIDANCE_COLUMNS.items():
        title = f"{heading} by guidance scale, first {rows[0].count} scenes"
        table = Table(title=title, title_justify="left")
        table.add_column("drawn from")
        for scale in scales:
            table.add_column(f"{scale:g}", justify="right")
        for source in dict.fromkeys(row.source for row in rows):
            cells = [
                _cell(row.figures[name], decimals, factor) for row in rows if row.source == source
            ]
            table.add_row(_SOURCES[source], *cells)
        tables.append(table)
    return tables


def _caption_table(captions: dict[str, dict[str, Figure]]) -> Table:
    table = Table(title="Captions", title_justify="left")
    table.add_column("captions")
    _add_columns(table, _CAPTION_COLUMNS)
    for source, figures in captions.items():
        table.add_row(_SOURCES[source], *_cells(figures, _CAPTION_COLUMNS))
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


def _add_columns(table: Table, columns: _Columns) -> None:
    for heading, _, _ in columns.values():
        table.add_column(heading, justify="right")


def _cells(figures: dict[str, Figure], columns: _Columns) -> list[str]:
    return [
        _cell(figures[name], decimals, factor) if name in figures else "—"
        for name, (_, decimals, factor) in columns.items()
    ]


def _cell(figure: Figure, decimals: int, factor: int) -> str:
    """The value with half the width of its interval."""
    if math.isnan(figure.value):
        return "—"
    text = f"{factor * figure.value:.{decimals}f}"
    if math.isnan(figure.low):
        return text
    return f"{text} ±{factor * (figure.high - figure.low) / 2:.{decimals}f}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
