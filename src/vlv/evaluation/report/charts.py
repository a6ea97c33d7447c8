"""Charts of figures with their 95% intervals, as SVG text. Knows no tables and no files.

The same figures always give the same bytes. Text stays text, on a white ground that is readable on
light and on dark pages. Series differ in colour (the palette of Okabe and Ito, which colour-blind
readers can tell apart) and in their markers, levels in their dashes.
"""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import fill
from typing import Any, Literal

from vlv.errors import ConfigError
from vlv.evaluation.metrics.columns import Column, cell
from vlv.evaluation.metrics.statistics import Figure

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from matplotlib.layout_engine import ConstrainedLayoutEngine
except ImportError as error:
    raise ConfigError(
        f"plots need {error.name}; install it with: pip install 'vlv[report]'"
    ) from error

INK, FAINT, GROUND = "#1b1f24", "#d6dade", "#ffffff"
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_DASHES = ((0, (6, 3)), (0, (2, 2)), (0, (7, 2, 2, 2)), (0, (1, 1.5)))
_ARROWS = {1: " ↑", -1: " ↓", 0: ""}
# Sizes are in CSS pixels, of which an inch has 96; matplotlib measures text in points, 72 an inch.
_INCH = 96
_FONT = 13
_CHARACTER = 0.6 * _FONT  # mean width
_LINE = 20
_DOT_ROW = 23
_LONGEST = 44
# An axis of counts that grow this much is logarithmic, as is one of positive figures.
_LOG_COUNTS, _LOG_FIGURES = 8, 100
# An axis extends at most this many times the range of the values beyond them for intervals.
_BEYOND = 3
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "axes.titleweight": "bold",
    "figure.facecolor": GROUND,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 0.75 * _FONT,
    "grid.color": FAINT,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "vlv",
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.formatter.useoffset": False,
}


@dataclass(frozen=True)
class Series:
    """A line of a panel: (x, figure) in rising order of x. A level has one point, whose x does not
    matter.
    """

    label: str
    points: Sequence[tuple[float, Figure]]


@dataclass(frozen=True)
class Panel:
    """One figure against numbers. levels: dashed horizontal lines, such as controls."""

    column: Column
    series: Sequence[Series]
    levels: Sequence[Series] = ()


@contextmanager
def canvas(width: float, height: float) -> Iterator[Canvas]:
    """An empty picture in the style of all charts."""
    with matplotlib.rc_context(_STYLE):
        size = (width / _INCH, height / _INCH)
        yield Canvas(
            figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.07, wspace=0.06)
        )


def svg(picture: Canvas, title: str) -> str:
    """The picture as SVG text; call it within `canvas`."""
    file = io.StringIO()
    metadata = {"Title": title, **dict.fromkeys(("Creator", "Date", "Format", "Type"))}
    picture.savefig(file, format="svg", metadata=metadata)
    return file.getvalue()


def dot_chart(labels: Sequence[str], panels: Sequence[tuple[Column, Sequence[Figure]]]) -> str:
    """A row a label: in each panel a dot for the figure's value and a bar for its interval."""
    rows = range(len(labels))
    shown = [one if len(one) <= _LONGEST else f"{one[: _LONGEST - 1]}…" for one in labels]
    with canvas(_width(len(panels)), 64 + _DOT_ROW * len(labels)) as picture:
        axes = picture.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, (column, figures) in zip(axes, panels, strict=True):
            values = _scaled(figures, column)
            ax.errorbar(values, rows, xerr=_reach(figures, column), color=_COLORS[0], **_points(0))
            _fit_figures(ax, "x", figures, column)
            ax.set_title(_title(column, len(panels)))
            ax.spines["left"].set_visible(False)
            ax.tick_params(axis="y", length=0)
        axes[0].set_yticks(rows, shown)
        axes[0].set_ylim(len(labels) - 0.5, -0.5)
        return svg(picture, ", ".join(column.heading for column, _ in panels))


def line_chart(panels: Sequence[Panel], x_name: str) -> str:
    """Panels beside each other with one legend; their series and levels have the same labels.

    A level that lies so far off that the lines would run together is written below its panel.
    """
    labels = [one.label for panel in panels for one in (*panel.series, *panel.levels)]
    columns = max(1, int(_width(len(panels)) // (50 + _CHARACTER * max(map(len, labels)))))
    below = [_far(panel) for panel in panels]
    notes = [_note(panel, far, len(panels)) for panel, far in zip(panels, below, strict=True)]
    legend_lines = -(-len(set(labels)) // columns) if len(set(labels)) > 1 else 0
    height = 300 + _LINE * (legend_lines + max(note.count("\n") for note in notes))
    with canvas(_width(len(panels)), height) as picture:
        axes = picture.subplots(1, len(panels), squeeze=False)[0]
        for ax, panel, far, note in zip(axes, panels, below, notes, strict=True):
            _draw_panel(ax, panel, far)
            ax.set_title(_title(panel.column, len(panels)))
            ax.set_xlabel(x_name + note)
        if legend_lines:
            handles = {
                label: handle
                for ax in axes
                for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
            }
            names = [label for label in dict.fromkeys(labels) if label in handles]
            shown = [handles[name] for name in names]
            picture.legend(shown, names, loc="outside lower left", ncols=columns)
        headings = ", ".join(panel.column.heading for panel in panels)
        return svg(picture, f"{headings} against {x_name}")


def _draw_panel(ax: Axes, panel: Panel, far: Sequence[Series]) -> None:
    xs = sorted({x for one in panel.series for x, _ in one.points})
    log = _grows(xs)
    if log:
        ax.set_xscale("log")
    column, count = panel.column, len(panel.series)
    # Series that were measured at places of their own do not hide each other.
    shared = len(xs) <= 2 * max((len(one.points) for one in panel.series), default=0)
    for number, one in enumerate(panel.series):
        figures = [figure for _, figure in one.points]
        steps = number - (count - 1) / 2 if shared else 0.0
        places = [_beside(x, xs, steps, log) for x, _ in one.points]
        ax.errorbar(
            places,
            _scaled(figures, column),
            yerr=_reach(figures, column),
            color=_color(number),
            label=one.label,
            **{**_points(number), "linestyle": "-"},
        )
    near = [one for one in panel.levels if one not in far]
    for number, one in enumerate(panel.levels, start=count):
        if one in far:
            continue
        ((_, figure),) = one.points
        (value,) = _scaled([figure], column)
        dashes = _DASHES[number % len(_DASHES)]
        ax.axhline(value, color=_color(number), linestyle=dashes, label=one.label)
        if math.isfinite(figure.low) and math.isfinite(figure.high):
            ends = (column.factor * figure.low, column.factor * figure.high)
            ax.axhspan(*ends, color=_color(number), alpha=0.15, linewidth=0)
    measured = [figure for one in panel.series for _, figure in one.points]
    # Intervals of levels do not stretch the axis.
    levels = [Figure(figure.value) for one in near for _, figure in one.points]
    _fit_figures(ax, "y", [*measured, *levels], column)
    _mark_places(ax, xs, log)


def _far(panel: Panel) -> list[Series]:
    """Levels further from the lines than these are from each other."""
    values = [figure.value for one in panel.series for _, figure in one.points]
    beyond = max(values) - min(values) or math.inf
    low, high = min(values) - beyond, max(values) + beyond
    return [one for one in panel.levels if not low <= one.points[0][1].value <= high]


def _note(panel: Panel, far: Sequence[Series], panels: int) -> str:
    if not far:
        return ""
    levels = "; ".join(f"{one.label} {cell(one.points[0][1], panel.column)}" for one in far)
    return "\n" + fill(f"off the axis: {levels}", _room(panels))


def _width(panels: int) -> float:
    return 380 + 180 * panels


def _room(panels: int) -> int:
    """How many characters fit beside each other in a panel."""
    return int((_width(panels) / panels - 80) / _CHARACTER)


def _title(column: Column, panels: int) -> str:
    return fill(column.heading + _ARROWS[column.better], _room(panels))


def _color(number: int) -> str:
    return _COLORS[number % len(_COLORS)]


def _points(number: int) -> dict[str, Any]:
    """How errorbar draws dots and their intervals, without a line."""
    marker = _MARKERS[number % len(_MARKERS)]
    size = {"markersize": 5.5, "elinewidth": 1.6, "capsize": 2.5, "linewidth": 1.3}
    return {"marker": marker, "linestyle": "none", **size}


def _scaled(figures: Sequence[Figure], column: Column) -> list[float]:
    return [column.factor * figure.value for figure in figures]


def _reach(figures: Sequence[Figure], column: Column) -> list[list[float]]:
    """How far the intervals reach below and above the values."""
    below = [column.factor * (figure.value - figure.low) for figure in figures]
    above = [column.factor * (figure.high - figure.value) for figure in figures]
    return [[max(0.0, one) for one in side] for side in (below, above)]


def _beside(x: float, xs: Sequence[float], steps: float, log: bool) -> float:
    """A place beside x, so that the intervals of two series do not hide each other."""
    share = 0.012 * steps
    return x * (xs[-1] / xs[0]) ** share if log else x + share * (xs[-1] - xs[0])


def _grows(xs: Sequence[float]) -> bool:
    counts = xs[0] > 0 and all(x == int(x) for x in xs)
    return counts and xs[-1] / xs[0] >= _LOG_COUNTS


def _mark_places(ax: Axes, xs: Sequence[float], log: bool) -> None:
    """Ticks where counts were measured, without those whose numbers would run into each other;
    round numbers for anything else.
    """
    if any(x != int(x) for x in xs):
        return
    places = [math.log(x) if log else x for x in xs]
    span = places[-1] - places[0] or 1.0
    kept: list[float] = []
    end = -math.inf
    for x, place in zip(xs, places, strict=True):
        at, half = 200 * (place - places[0]) / span, _CHARACTER * (len(f"{x:,.0f}") + 1) / 2
        if at - half >= end:
            kept.append(x)
            end = at + half
    ax.set_xticks(kept, [f"{x:,.0f}" for x in kept])
    ax.minorticks_off()


def _fit_figures(
    ax: Axes, axis: Literal["x", "y"], figures: Sequence[Figure], column: Column
) -> None:
    """Limits that show all values, and their intervals where those do not dwarf the values."""
    values = [one.value for one in figures if math.isfinite(one.value)]
    least, most = min(values), max(values)
    if column.factor == 1 and least > 0 and most / least >= _LOG_FIGURES:
        ax.set(**{f"{axis}scale": "log"})
        return
    ends = [end for one in figures for end in (one.low, one.high) if math.isfinite(end)]
    beyond = _BEYOND * (most - least) or math.inf
    low = column.factor * min(least, max(least - beyond, min(ends, default=least)))
    high = column.factor * max(most, min(most + beyond, max(ends, default=most)))
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 10.0**-column.decimals
    ax.set(**{f"{axis}lim": (low - margin, high + margin)})
    ax.locator_params(axis=axis, nbins=5)
