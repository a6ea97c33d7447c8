"""The table of compositions as a heat map: what a picture takes of A and of B, by how their
embeddings are split. Measures nothing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vlv.errors import ConfigError
from vlv.evaluation.metrics.columns import column
from vlv.evaluation.report.charts import GROUND, INK, canvas, svg
from vlv.evaluation.results import Result, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of A, of B, and of both.
_SHOWN = (
    *("objects_of_a", "floor_of_a", "objects_of_b", "floor_of_b", "light_of_b", "joint"),
    "joint_reversed",
)
_WIDTH = 900
_CELL_HEIGHT, _AROUND = 27, 95
# Between the splits that keep as many embeddings as an image has, and those that keep fewer.
_GAP = 0.35


def heat_map(result: Result) -> str:
    """A panel for each order of truncation as SVG text: what is taken of A and of B, by splits.

    The splits go from all of A to all of B; those that keep fewer embeddings than an image has
    follow after a gap.

    Raises:
        ConfigError: the result is another table than `compose`.
    """
    if result.name != "compose":
        raise ConfigError(f"the heat map shows a result of compose, not of {result.name}")
    panels = _panels(result)
    height = (_CELL_HEIGHT * len(_SHOWN) + _AROUND) * len(panels)
    with canvas(_WIDTH, height) as picture:
        axes = picture.subplots(len(panels), 1, squeeze=False)[:, 0]
        for ax, (title, (whole, fewer)) in zip(axes, panels.items(), strict=True):
            _draw_panel(ax, whole, fewer)
            ax.set_title(title, pad=10)
        axes[-1].set_xlabel(
            f"embeddings kept of A + of B; cells: percent, over {result.rows[0].count} pairs"
        )
        return svg(picture, "what a picture takes of A and of B, by how their embeddings are split")


Split = tuple[str, Row]


def _panels(result: Result) -> dict[str, tuple[list[Split], list[Split]]]:
    """By title: the splits that keep all embeddings, and those that keep fewer."""
    a, b = (result.row(**{"drawn from": f"{name} alone"}) for name in "AB")
    splits = [row for row in result.rows if "keep A" in row.labels]
    panels = {}
    for title in dict.fromkeys(str(row.labels["drawn from"]) for row in splits):
        rows = [row for row in splits if row.labels["drawn from"] == title]
        most = max(_number(row, "together") for row in rows)
        rows.sort(key=lambda row: (-_number(row, "together"), -_number(row, "keep A")))
        whole = [(_split(row), row) for row in rows if row.labels["together"] == most]
        fewer = [(_split(row), row) for row in rows if row.labels["together"] != most]
        panels[title] = ([("all of A", a), *whole, ("all of B", b)], fewer)
    return panels


def _draw_panel(ax: "Axes", whole: Sequence[Split], fewer: Sequence[Split]) -> None:
    centres: list[float] = []
    for start, splits in ((0.0, whole), (len(whole) + _GAP, fewer)):
        if not splits:
            continue
        shares = np.array([[row.figures[name].value for _, row in splits] for name in _SHOWN])
        edges = [start + number for number in range(len(splits) + 1)]
        ax.pcolormesh(
            edges,
            range(len(_SHOWN) + 1),
            shares,
            cmap="Blues",
            vmin=0,
            vmax=1,
            edgecolors=GROUND,
            linewidth=1.5,
        )
        middles = [edge + 0.5 for edge in edges[:-1]]
        centres += middles
        for (line, place), share in np.ndenumerate(shares):
            color = GROUND if share > 0.5 else INK
            text = f"{100 * share:.0f}"
            ax.text(middles[place], line + 0.5, text, color=color, ha="center", va="center")
    headings = [column(name).heading.removesuffix(" %") for name in _SHOWN]
    ax.set_yticks(np.arange(len(_SHOWN)) + 0.5, headings)
    ax.set_xticks(centres, [heading for heading, _ in (*whole, *fewer)])
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_ylim(len(_SHOWN), 0)


def _number(row: Row, label: str) -> int:
    return int(row.labels[label])


def _split(row: Row) -> str:
    keep_a = _number(row, "keep A")
    return f"{keep_a} + {_number(row, 'together') - keep_a}"
