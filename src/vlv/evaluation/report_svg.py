"""Plots of figures with their intervals as SVG text. Knows no tables and no files.

Dark text on white; series differ in colour (Okabe and Ito's palette, which the colour-blind can
tell apart) and in their markers. Sizes are in the picture's own units, which scale with the page.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from vlv.evaluation.metrics.columns import Column, cell
from vlv.evaluation.metrics.statistics import Figure

WIDTH = 560
_PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_INK, _FAINT = "#1b1f24", "#d6dade"
_FONT = 13
_CHARACTER = 0.56 * _FONT  # mean width
_LINE = 20
_RIGHT = 20
_DOT_ROW = 24
_LONGEST = 34
# An axis of counts that grow this much is logarithmic.
_LOG_FROM = 8


@dataclass(frozen=True)
class Series:
    """A line of a plot: (x, figure) in rising order of x."""

    label: str
    points: Sequence[tuple[float, Figure]]


@dataclass(frozen=True)
class Scale:
    """Values low..high to places start..end, linearly or by their logarithms; what lies beyond
    them comes to the nearer end.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value."""
        within = min(max(value, self.low), self.high)
        low, high, at = (
            (math.log(one) if self.log else one) for one in (self.low, self.high, within)
        )
        return self.start + (self.end - self.start) * (at - low) / (high - low)


def line_plot(
    series: Sequence[Series], references: Sequence[Series], x_name: str, column: Column
) -> str:
    """Figures against numbers: lines with error bars, and references as dashed levels.

    A reference has one point, whose x is of no account; one that lies so far off that the lines
    would run together is told in the legend alone.
    """
    left, top, bottom = 64, 36, 300
    y, references = _y_scale(series, references, column, bottom, top)
    x = _x_scale([at for one in series for at, _ in one.points], left + 20, WIDTH - _RIGHT - 20)
    entries = _legend(series, references, bottom + 56)
    parts = [_text(8, 20, _title(column), weight="bold")]
    for tick in ticks(y.low, y.high):
        parts += [
            _line(left, y(tick), WIDTH - _RIGHT, y(tick), _FAINT),
            _text(left - 8, y(tick) + 4, _number(tick, y), anchor="end"),
        ]
    for tick in _x_ticks(series, x):
        parts += [
            _line(x(tick), bottom, x(tick), bottom + 5, _INK),
            _text(x(tick), bottom + 19, f"{tick:,.10g}", anchor="middle"),
        ]
    parts += [
        _line(left, bottom, WIDTH - _RIGHT, bottom, _INK),
        _text((left + WIDTH - _RIGHT) / 2, bottom + 38, x_name, anchor="middle"),
    ]
    for number, one in enumerate(series):
        # Beside each other where intervals would hide each other.
        aside = 5 * (number - (len(series) - 1) / 2)
        parts += _drawn_series(one, number, x, y, aside, column.factor)
    for number, one in enumerate(references, start=len(series)):
        for _, figure in one.points:
            level = y(column.factor * figure.value)
            parts.append(_line(left, level, WIDTH - _RIGHT, level, _color(number), dashes="6 4"))
    return _svg([*parts, *entries.parts], entries.bottom, f"{_title(column)} against {x_name}")


def dot_plot(labels: Sequence[str], figures: Sequence[Figure], column: Column) -> str:
    """A row a label: a dot for the value and a bar for its interval."""
    shown = [one if len(one) <= _LONGEST else f"{one[: _LONGEST - 1]}…" for one in labels]
    left = 16 + _CHARACTER * max(map(len, shown))
    top = 36
    bottom = top + _DOT_ROW * len(labels)
    x = Scale(*_range(figures, column), left, WIDTH - _RIGHT)
    parts = [_text(8, 20, _title(column), weight="bold")]
    for tick in ticks(x.low, x.high, 6):
        parts += [
            _line(x(tick), top, x(tick), bottom, _FAINT),
            _text(x(tick), bottom + 18, _number(tick, x), anchor="middle"),
        ]
    for number, (label, figure) in enumerate(zip(shown, figures, strict=True)):
        middle = top + _DOT_ROW * (number + 0.5)
        parts.append(_text(left - 8, middle + 4, label, anchor="end"))
        if math.isnan(figure.value):
            continue
        if not math.isnan(figure.low):
            # A bar that is longer than the axis ends with it.
            inside = (max(x.low, min(x.high, column.factor * e)) for e in (figure.low, figure.high))
            ends = (x(end) for end in inside)
            parts.append(_line(next(ends), middle, next(ends), middle, _PALETTE[0], width=2.5))
        parts.append(_marker(x(column.factor * figure.value), middle, 0))
    return _svg(parts, bottom + 30, _title(column))


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers within low..high."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(times for times in (1, 2, 5, 10) if times * power >= 0.8 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * number for number in range(first, last + 1)]


def _y_scale(
    series: Sequence[Series], references: Sequence[Series], column: Column, start: float, end: float
) -> tuple[Scale, Sequence[Series]]:
    """The scale of a line plot, and its references; those that are not on it have no points."""
    drawn = [figure for one in series for _, figure in one.points]
    values = [figure.value for figure in drawn]
    beyond = max(values) - min(values) or math.inf
    shown: list[Series] = []
    for one in references:
        ((at, figure),) = one.points
        if min(values) - beyond <= figure.value <= max(values) + beyond:
            # Without its interval, which is not drawn.
            drawn.append(Figure(figure.value, math.nan, math.nan))
            shown.append(Series(one.label, [(at, figure)]))
        else:
            shown.append(Series(f"{one.label}: {cell(figure, column)}, off the axis", []))
    return Scale(*_range(drawn, column), start, end), shown


def _x_scale(values: Sequence[float], start: float, end: float) -> Scale:
    low, high = min(values), max(values)
    counts = low > 0 and all(value == int(value) for value in values)
    return Scale(low, high, start, end, log=counts and high / low >= _LOG_FROM)


def _x_ticks(series: Sequence[Series], x: Scale) -> list[float]:
    """The measured places, without those whose numbers would run into each other; round ones where
    what was measured are no counts.
    """
    if not all(at == int(at) for one in series for at, _ in one.points):
        return ticks(x.low, x.high)
    kept: list[float] = []
    for value in sorted({at for one in series for at, _ in one.points}):
        room = _CHARACTER * (len(f"{value:,.10g}") + 1)
        if not kept or x(value) - x(kept[-1]) >= room:
            kept.append(value)
    return kept


def _range(figures: Sequence[Figure], column: Column) -> tuple[float, float]:
    """What an axis spans: all values, and their intervals where those do not dwarf the values."""
    values = [one.value for one in figures if math.isfinite(one.value)]
    ends = [end for one in figures for end in (one.low, one.high) if math.isfinite(end)]
    least, most = min(values), max(values)
    beyond = most - least or math.inf
    low = column.factor * min(least, max(least - beyond, min(ends, default=least)))
    high = column.factor * max(most, min(most + beyond, max(ends, default=most)))
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 10.0**-column.decimals
    return low - margin, high + margin


def _drawn_series(
    one: Series, number: int, x: Scale, y: Scale, aside: float, factor: int
) -> list[str]:
    known = [(x(at) + aside, figure) for at, figure in one.points if math.isfinite(figure.value)]
    path = " ".join(f"{at:.1f},{y(factor * figure.value):.1f}" for at, figure in known)
    color = _color(number)
    parts = [f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>']
    for at, figure in known:
        if not math.isnan(figure.low):
            low, high = y(factor * figure.low), y(factor * figure.high)
            parts += [
                _line(at, low, at, high, color, width=1.5),
                *(_line(at - 3, end, at + 3, end, color, width=1.5) for end in (low, high)),
            ]
        parts.append(_marker(at, y(factor * figure.value), number))
    return parts


@dataclass(frozen=True)
class _Legend:
    parts: list[str]
    bottom: float


def _legend(series: Sequence[Series], references: Sequence[Series], top: float) -> _Legend:
    """Markers and dashes with their labels, as many beside each other as fit."""
    labels = [one.label for one in (*series, *references)]
    if labels == [""]:
        return _Legend([], top)
    wide = 36 + _CHARACTER * max(map(len, labels))
    columns = max(1, int((WIDTH - 8) // wide))
    parts: list[str] = []
    for number, label in enumerate(labels):
        at, line = 18 + wide * (number % columns), top + _LINE * (number // columns)
        sign = (
            _marker(at, line, number)
            if number < len(series)
            else _line(at - 10, line, at + 10, line, _color(number), dashes="6 4")
        )
        parts += [sign, _text(at + 14, line + 4, label)]
    return _Legend(parts, top + _LINE * -(-len(labels) // columns))


def _title(column: Column) -> str:
    told = {1: " (higher is better)", -1: " (lower is better)", 0: ""}
    return column.heading + told[column.better]


def _number(value: float, scale: Scale) -> str:
    """With as many decimals as tell the axis' ticks apart."""
    decimals = max(0, 1 - math.floor(math.log10(scale.high - scale.low)))
    text = f"{value:,.{decimals}f}"
    return f"{0:.{decimals}f}" if float(text.replace(",", "")) == 0 else text


def _color(number: int) -> str:
    return _PALETTE[number % len(_PALETTE)]


def _marker(x: float, y: float, number: int) -> str:
    """A disc, square, diamond or triangle, so that colour is not all that tells series apart."""
    fill = _color(number)
    if number % 4 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{fill}"/>'
    corners = {
        1: ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        2: ((0, -6), (6, 0), (0, 6), (-6, 0)),
        3: ((0, -5), (5, 4), (-5, 4)),
    }[number % 4]
    points = " ".join(f"{x + right:.1f},{y + down:.1f}" for right, down in corners)
    return f'<polygon points="{points}" fill="{fill}"/>'


def _line(
    x1: float, y1: float, x2: float, y2: float, color: str, *, width: float = 1, dashes: str = ""
) -> str:
    style = f' stroke-dasharray="{dashes}"' if dashes else ""
    places = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {places} stroke="{color}" stroke-width="{width}"{style}/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text {place} fill="{_INK}">{escape(text)}</text>'


def _svg(parts: Sequence[str], height: float, title: str) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{WIDTH}" height="{height:.0f}" role="img" font-size="{_FONT}" '
        'font-family="system-ui, sans-serif">'
    )
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", ground, *parts, "</svg>\n"])
