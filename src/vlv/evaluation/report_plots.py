"""Which plots show the rows of a table. Draws nothing itself.

Where a label is a number that changes while the others stay, figures are drawn against it, a line
for each of the others; otherwise rows are categories.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vlv.evaluation.metrics.columns import column, label_text
from vlv.evaluation.report_svg import Series, dot_plot, line_plot
from vlv.evaluation.results import Label, Row

# The first figures of a table are those that it is about.
PLOTTED_FIGURES = 3


@dataclass(frozen=True)
class Plot:
    """A plot as SVG text. alt: what it shows, in words."""

    figure: str
    svg: str
    alt: str


def plots(rows: Sequence[Row]) -> list[Plot]:
    """Plots of the first figures that two rows or more have."""
    names = dict.fromkeys(name for row in rows for name in row.figures)
    shown = [name for name in names if len(_known(rows, name)) > 1]
    return [_plot(_known(rows, name), name) for name in shown[:PLOTTED_FIGURES]]


def numeric_label(rows: Sequence[Row]) -> str | None:
    """The label to draw figures against: a number with most values along one line."""
    longest: dict[str, int] = {}
    for name in dict.fromkeys(name for row in rows for name in row.labels):
        numbers = [row for row in rows if _is_number(row.labels.get(name))]
        lines = _lines(numbers, name).values()
        longest[name] = max((len({row.labels[name] for row in line}) for line in lines), default=0)
    best = max(longest, key=lambda name: longest[name], default=None)
    return best if best is not None and longest[best] > 1 else None


def row_labels(rows: Sequence[Row], without: str | None = None) -> list[str]:
    """What tells each row from the others, in words; numbers only where words do not."""
    names = dict.fromkeys(name for row in rows for name in row.labels if name != without)
    told = [name for name in names if len({row.labels.get(name) for row in rows}) > 1]
    for name in [name for name in told if any(_is_number(row.labels.get(name)) for row in rows)]:
        rest = [other for other in told if other != name]
        if len({_words(row, rest) for row in rows}) == len({_words(row, told) for row in rows}):
            told = rest
    return [_words(row, told or ([] if without else list(names))) for row in rows]


def _words(row: Row, names: Sequence[str]) -> str:
    return ", ".join(
        f"{name} {label_text(row.labels[name])}"
        if _is_number(row.labels[name])
        else label_text(row.labels[name])
        for name in names
        if name in row.labels
    )


def _plot(rows: Sequence[Row], name: str) -> Plot:
    shown = column(name)
    x_name = numeric_label(rows)
    if x_name is None:
        svg = dot_plot(row_labels(rows), [row.figures[name] for row in rows], shown)
        return Plot(name, svg, f"{shown.heading} of each row of the table, with 95% intervals")
    against = [row for row in rows if _is_number(row.labels.get(x_name))]
    levels = [row for row in rows if row not in against]
    labels = dict(zip(map(id, rows), row_labels(rows, without=x_name), strict=True))
    series = [
        Series(
            labels[id(line[0])],
            sorted(
                ((float(row.labels[x_name]), row.figures[name]) for row in line),
                key=lambda point: point[0],
            ),
        )
        for line in _lines(against, x_name).values()
    ]
    references = [Series(labels[id(row)], [(0.0, row.figures[name])]) for row in levels]
    svg = line_plot(series, references, x_name, shown)
    return Plot(name, svg, f"{shown.heading} against {x_name}, with 95% intervals")


def _known(rows: Sequence[Row], name: str) -> list[Row]:
    return [row for row in rows if name in row.figures and not math.isnan(row.figures[name].value)]


def _lines(rows: Sequence[Row], x_name: str) -> dict[tuple[tuple[str, Label], ...], list[Row]]:
    """Rows by their labels other than `x_name`."""
    lines: dict[tuple[tuple[str, Label], ...], list[Row]] = {}
    for row in rows:
        others = tuple((name, value) for name, value in row.labels.items() if name != x_name)
        lines.setdefault(others, []).append(row)
    return lines


def _is_number(value: Label | None) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
