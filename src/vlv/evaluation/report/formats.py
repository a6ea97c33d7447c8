"""Blocks as HTML, in one file that holds its pictures, and as Markdown, as forges show it."""

import re
from collections.abc import Sequence
from pathlib import Path

from vlv.evaluation.report.document import (
    Block,
    Bullets,
    Code,
    Grid,
    Heading,
    Inline,
    Line,
    Link,
    Paragraph,
    Picture,
    Strong,
)
from vlv.html import data_uri, render


def html_page(title: str, blocks: Sequence[Block], folder: Path) -> str:
    """The whole page: no scripts, no network. folder: where the files of its pictures are."""
    return render(
        "vlv.evaluation.report",
        "report.html.j2",
        title=title,
        blocks=blocks,
        embedded=lambda file: data_uri(file, (folder / file).read_bytes()),
    )


def markdown_page(blocks: Sequence[Block]) -> str:
    """The whole page."""
    return "\n\n".join(_block(block) for block in blocks) + "\n"


def _block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_plain(text)}"
        case Paragraph(line):
            return _starting(_line(line))
        case Bullets(lines):
            return "\n".join(f"- {_starting(_line(line))}" for line in lines)
        case Grid():
            return _grid(block)
        case Picture(file, alt):
            return f"![{_plain(alt)}]({file})"


def _grid(grid: Grid) -> str:
    heads = [_plain(head) for head in grid.heads]
    rule = ["---:" if at in grid.numeric else "---" for at in range(len(heads))]
    rows = [[_line(cell) for cell in row] for row in grid.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rule, *rows))


def _line(line: Line) -> str:
    return "".join(_inline(part) for part in line)


def _inline(part: Inline) -> str:
    match part:
        case Link(text, target):
            return f"[{_plain(text)}]({target})"
        case Strong(text):
            return f"**{_plain(text)}**"
        case Code(text):
            return f"`{text}`"
        case str():
            return _plain(part)


def _plain(text: str) -> str:
    """Text in which nothing is markup, on one line."""
    # Leading and trailing blanks part a text from its neighbours in a line.
    one_line = re.sub(r"\s+", " ", text)
    entities = re.sub(r"&(?=#?\w+;)", "&amp;", one_line)
    return re.sub(r"([\\`*_\[\]<>|~$])", r"\\\1", entities)


def _starting(line: str) -> str:
    """A line that begins no list and no heading by chance."""
    return re.sub(r"^(\d+)([.)])(?= )", r"\1\\\2", re.sub(r"^([#+-])", r"\\\1", line))
