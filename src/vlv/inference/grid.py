"""Pictures side by side in one picture, with labels and texts. Knows Pillow only.

Sizes are in pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count

from PIL import Image, ImageDraw, ImageFont

_PAPER = (255, 255, 255)
_INK = (32, 36, 44)
_FAINT = (104, 112, 124)
_FRAME = (214, 218, 224)

_MARGIN = 24
_GAP = 14
_LABEL_SIZE = 15
_TEXT_SIZE = 13
_LINE_HEIGHT = 1.4


@dataclass(frozen=True)
class Row:
    """A row of pictures and what stands before it; `label` may have a second, fainter line."""

    label: str
    pictures: Sequence[Image.Image]


def picture_grid(
    rows: Sequence[Row],
    *,
    cell: tuple[int, int],
    column_labels: Sequence[str] = (),
    column_texts: Sequence[str] = (),
    texts_label: str = "",
) -> Image.Image:
    """Rows of pictures, each fitted to `cell` (width, height).

    `column_labels` stand above the columns and `column_texts`, wrapped, below them; both are as
    many as the pictures of a row, or none. `texts_label` stands before the texts.
    """
    columns = len(rows[0].pictures)
    if any(len(row.pictures) != columns for row in rows):
        raise ValueError("the rows of a grid have equally many pictures")
    width, height = cell
    left = _MARGIN + _label_width([texts_label, *(row.label for row in rows)])
    top = _MARGIN + (_line(_LABEL_SIZE) + _GAP // 2 if column_labels else 0)
    texts = [wrap(text, _font(_TEXT_SIZE), width) for text in column_texts]
    bottom = top + len(rows) * (height + _GAP) - _GAP
    text_height = max((len(lines) for lines in texts), default=0) * _line(_TEXT_SIZE)
    canvas = Image.new(
        "RGB",
        (
            left + columns * (width + _GAP) - _GAP + _MARGIN,
            bottom + (_GAP + text_height if texts else 0) + _MARGIN,
        ),
        _PAPER,
    )
    draw = ImageDraw.Draw(canvas)
    for x, label in zip(_starts(left, width), column_labels, strict=False):
        draw.text((x, _MARGIN), label, _INK, _font(_LABEL_SIZE))
    for y, row in zip(_starts(top, height), rows, strict=False):
        _draw_label(draw, row.label, y + height / 2)
        for x, picture in zip(_starts(left, width), row.pictures, strict=False):
            draw.rectangle((x - 1, y - 1, x + width, y + height), outline=_FRAME)
            canvas.paste(fit(picture, cell), (x, y))
    draw.text((_MARGIN, bottom + _GAP), texts_label, _INK, _font(_LABEL_SIZE))
    for x, lines in zip(_starts(left, width), texts, strict=False):
        _draw_lines(draw, lines, x, bottom + _GAP)
    return canvas


def enlarged(size: tuple[int, int], at_least: int) -> tuple[int, int]:
    """`size` times the smallest whole number that makes its shorter side `at_least` pixels."""
    times = max(1, -(-at_least // min(size)))
    return size[0] * times, size[1] * times


def fit(picture: Image.Image, cell: tuple[int, int]) -> Image.Image:
    """The picture at the size of `cell`; its pixels stay squares where they fit a whole number."""
    if picture.size == cell:
        return picture
    whole = all(big % small == 0 for big, small in zip(cell, picture.size, strict=True))
    method = Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS
    return picture.resize(cell, method)


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines of whole words no wider than `width`, as far as single words allow."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _starts(first: int, size: int) -> Iterator[int]:
    """Left or upper edges of cells of a size, without end."""
    return count(first, size + _GAP)


def _draw_label(draw: ImageDraw.ImageDraw, label: str, middle: float) -> None:
    lines = label.split("\n")
    y = middle - len(lines) * _line(_LABEL_SIZE) / 2
    for number, line in enumerate(lines):
        color = _FAINT if number else _INK
        draw.text((_MARGIN, y), line, color, _font(_LABEL_SIZE))
        y += _line(_LABEL_SIZE)


def _draw_lines(draw: ImageDraw.ImageDraw, lines: list[str], x: int, y: int) -> None:
    for number, line in enumerate(lines):
        draw.text((x, y + number * _line(_TEXT_SIZE)), line, _INK, _font(_TEXT_SIZE))


def _label_width(labels: Sequence[str]) -> int:
    font = _font(_LABEL_SIZE)
    widest = max(font.getlength(line) for label in labels for line in label.split("\n"))
    return int(widest) + 2 * _GAP if widest else 0


def _line(size: int) -> int:
    return round(size * _LINE_HEIGHT)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType and cannot draw labels")
    return font
