"""The table of compositions as a picture: what is taken, by how the embeddings are split.

Knows Pillow and results; measures nothing. Sizes are in pixels.
"""

from collections.abc import Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from vlv.errors import ConfigError
from vlv.evaluation.metrics.columns import column
from vlv.evaluation.results import Result, Row

# Of A, of B, and the two together.
_SHOWN = (
    *("objects_of_a", "floor_of_a", "objects_of_b", "floor_of_b", "light_of_b", "joint"),
    "joint_reversed",
)
_PAPER, _INK, _FAINT = (255, 255, 255), (32, 36, 44), (104, 112, 124)
_FULL = (28, 92, 152)  # of a share of 1; 0 is the paper's white
_CELL = (64, 30)
_MARGIN, _GAP = 20, 10
_SIZE, _TITLE_SIZE = 13, 15
_LINE = 20


def heat_map(result: Result) -> Image.Image:
    """A panel for each order of truncation: what is taken of A and of B, by splits.

    From all of A to all of B, and then the splits that keep fewer embeddings than an image has.

    Raises:
        ConfigError: the result is another table than `compose`.
    """
    if result.name != "compose":
        raise ConfigError(f"the heat map shows a result of compose, not of {result.name}")
    panels = _panels(result)
    left = _MARGIN + round(max(map(_font(_SIZE).getlength, _headings()))) + _GAP
    width = left + max(len(rows) for rows in panels.values()) * _CELL[0] + _MARGIN
    panel_height = 3 * _LINE + len(_SHOWN) * _CELL[1] + _MARGIN
    legend = (
        "Columns: embeddings kept of A + of B.",
        f"Cells: percent, over {result.rows[0].count} pairs.",
    )
    below = _MARGIN + len(panels) * panel_height
    canvas = Image.new("RGB", (width, below + len(legend) * _LINE + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, (title, rows) in enumerate(panels.items()):
        top = _MARGIN + number * panel_height
        draw.text((_MARGIN, top), title, _INK, _font(_TITLE_SIZE))
        _draw_panel(draw, (left, top + 3 * _LINE), rows)
    for number, line in enumerate(legend):
        draw.text((_MARGIN, below + number * _LINE), line, _FAINT, _font(_SIZE))
    return canvas


def _panels(result: Result) -> dict[str, list[tuple[str, Row]]]:
    """Title -> columns, each a heading and its row of the table."""
    a, b = (result.row(**{"drawn from": f"{name} alone"}) for name in "AB")
    splits = [row for row in result.rows if "keep A" in row.labels]
    panels = {}
    for title in dict.fromkeys(str(row.labels["drawn from"]) for row in splits):
        rows = [row for row in splits if row.labels["drawn from"] == title]
        most = max(_number(row, "together") for row in rows)
        rows.sort(key=lambda row: (-_number(row, "together"), -_number(row, "keep A")))
        whole = [(_split(row), row) for row in rows if row.labels["together"] == most]
        fewer = [(_split(row), row) for row in rows if row.labels["together"] != most]
        panels[title] = [("all of A", a), *whole, ("all of B", b), *fewer]
    return panels


def _draw_panel(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], columns: Sequence[tuple[str, Row]]
) -> None:
    """Cells with their upper left corner at `corner`, and headings to the left and above."""
    left, top = corner
    width, height = _CELL
    for line, heading in enumerate(_headings()):
        middle = top + (line + 0.5) * height
        draw.text((left - _GAP, middle), heading, _INK, _font(_SIZE), anchor="rm")
    for number, (heading, row) in enumerate(columns):
        x = left + number * width
        draw.text((x + width / 2, top - _GAP), heading, _INK, _font(_SIZE), anchor="mm")
        for line, name in enumerate(_SHOWN):
            y, share = top + line * height, row.figures[name].value
            shade = tuple(
                round(white + share * (full - white))
                for white, full in zip(_PAPER, _FULL, strict=True)
            )
            draw.rectangle((x, y, x + width - 2, y + height - 2), fill=shade)
            draw.text(
                (x + width / 2, y + height / 2),
                f"{100 * share:.0f}",
                _PAPER if share > 0.5 else _INK,
                _font(_SIZE),
                anchor="mm",
            )


def _headings() -> list[str]:
    return [column(name).heading.removesuffix(" %") for name in _SHOWN]


def _number(row: Row, label: str) -> int:
    return int(row.labels[label])


def _split(row: Row) -> str:
    keep_a = _number(row, "keep A")
    return f"{keep_a} + {_number(row, 'together') - keep_a}"


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
