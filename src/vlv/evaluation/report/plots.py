"""Which plot shows the rows of a table. Draws nothing itself.

Where a label is a number that changes while the others stay, figures are drawn against it, a line
for each of the others. Otherwise rows are categories.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vlv.evaluation.metrics.columns import column, label_text
from vlv.evaluation.metrics.statistics import Figure
from vlv.evaluation.report.charts import Panel, Series, dot_chart, line_chart
from vlv.evaluation.results import Label, Row

# A table is about its first figures.
PLOTTED_FIGURES = 3
_UNKNOWN = Figure(math.nan)


@dataclass(frozen=True)
class Plot:
    """A plot as SVG text. alt: what it shows, in words."""

    svg: str
    alt: str


def plot(rows: Sequence[Row]) -> Plot | None:
    """A panel for each of the first figures that two or more rows have; None if there are none."""
    names = dict.fromkeys(name for row in rows for name in row.figures)
    shown = [name for name in names if sum(_is_known(row, name) for row in rows) > 1]
    shown = shown[:PLOTTED_FIGURES]
    rows = [row for row in rows if any(_is_known(row, name) for name in shown)]
    if not shown:
        return None
    headings = ", ".join(column(name).heading for name in shown)
    x_name = numeric_label(rows)
    if x_name is None or not all(_panel(rows, name, x_name).series for name in shown):
        panels = [
            (column(name), [row.figures.get(name, _UNKNOWN) for row in rows]) for name in shown
        ]
        alt = f"{headings} of each row of the table, with 95% intervals"
        return Plot(dot_chart(row_labels(rows), panels), alt)
    lines = [_panel(rows, name, x_name) for name in shown]
    return Plot(line_chart(lines, x_name), f"{headings} against {x_name}, with 95% intervals")


def numeric_label(rows: Sequence[Row]) -> str | None:
    """The label to draw figures against: a number with most values along one line, three at least,
    if most rows lie on such lines.
    """
    best, longest = None, 2
    for name in dict.fromkeys(name for row in rows for name in row.labels):
        lines = [line for line in _lines(rows, name).values() if len(line) > 2]
        length = max(map(len, lines), default=0)
        if length > longest and 2 * sum(map(len, lines)) > len(rows):
            best, longest = name, length
    return best


def row_labels(rows: Sequence[Row], without: str | None = None) -> list[str]:
    """What makes each row differ from the others, in words; numbers only where words do not.

    without: the label on the x axis, which is not repeated.
    """
    names = _distinguishing(rows, without)
    if not names and without is None:
        names = list(dict.fromkeys(name for row in rows for name in row.labels))
    return [_words(row, names) for row in rows]


def _panel(rows: Sequence[Row], name: str, x_name: str) -> Panel:
    labels = dict(zip(map(id, rows), row_labels(rows, without=x_name), strict=True))
    known = [row for row in rows if _is_known(row, name)]
    series = [
        Series(
            labels[id(line[0])],
            sorted(
                ((float(row.labels[x_name]), row.figures[name]) for row in line),
                key=lambda point: point[0],
            ),
        )
        for line in _lines(known, x_name).values()
    ]
    levels = [
        Series(labels[id(row)], [(0.0, row.figures[name])])
        for row in known
        if not _is_number(row.labels.get(x_name))
    ]
    return Panel(column(name), series, levels)


def _distinguishing(rows: Sequence[Row], without: str | None) -> list[str]:
    """Labels that make rows differ, without numbers that are not needed for it."""
    names = dict.fromkeys(name for row in rows for name in row.labels if name != without)
    varying = [name for name in names if len({row.labels.get(name) for row in rows}) > 1]
    for name in [one for one in varying if any(_is_number(row.labels.get(one)) for row in rows)]:
        rest = [other for other in varying if other != name]
        if _distinct(rows, rest, without) == _distinct(rows, varying, without):
            varying = rest
    return varying


def _distinct(rows: Sequence[Row], names: Sequence[str], x_name: str | None) -> int:
    shown = [*names, x_name] if x_name else names
    return len({tuple(row.labels.get(name) for name in shown) for row in rows})


def _words(row: Row, names: Sequence[str]) -> str:
    return ", ".join(
        f"{name} {label_text(row.labels[name])}"
        if _is_number(row.labels[name])
        else label_text(row.labels[name])
        for name in names
        if name in row.labels
    )


def _lines(rows: Sequence[Row], x_name: str) -> dict[tuple[Label | None, ...], list[Row]]:
    """Rows that have a number `x_name`, by what else makes them differ."""
    names = _distinguishing(rows, x_name)
    lines: dict[tuple[Label | None, ...], list[Row]] = {}
    for row in rows:
        if _is_number(row.labels.get(x_name)):
            lines.setdefault(tuple(row.labels.get(name) for name in names), []).append(row)
    return lines


def _is_known(row: Row, name: str) -> bool:
    return name in row.figures and not math.isnan(row.figures[name].value)


def _is_number(value: Label | None) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
