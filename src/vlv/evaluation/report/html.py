"""Blocks as one HTML page that needs nothing but the pictures beside it: no scripts, no network."""

from collections.abc import Sequence
from html import escape

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

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff;
  max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.25; }
h2 { margin-top: 3rem; border-top: 1px solid #d6dade; padding-top: 1.5rem; }
a { color: #0b5394; }
code { font-size: 0.9em; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.6rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid #d6dade; overflow-wrap: normal; }
td:first-child:not(:last-child), td:nth-child(3):not(.number) { min-width: 9rem; }
th.number, td.number { text-align: right; white-space: nowrap; }
img, svg { max-width: 100%; height: auto; }
figure { margin: 1rem 0; }
.verdict { padding-left: 0.4rem; border-left: 0.3rem solid #767d86; }
.confirmed { border-color: #009e73; }
.contradicted, .failed { border-color: #d55e00; }
""".strip()


def html_page(title: str, blocks: Sequence[Block]) -> str:
    """The whole page."""
    body = "\n".join(_block(block) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _block(block: Block) -> str:
    match block:
        case Heading(text, level):
            anchor = f' id="{escape(block.slug)}"' if level < 3 else ""
            return f"<h{level}{anchor}>{escape(text)}</h{level}>"
        case Paragraph(line):
            return f"<p>{_line(line)}</p>"
        case Bullets(lines):
            items = "\n".join(f"<li>{_line(line)}</li>" for line in lines)
            return f"<ul>\n{items}\n</ul>"
        case Grid():
            return _grid(block)
        case Picture(file, alt, svg):
            return f"<figure>\n{svg or _image(file, alt)}\n</figure>"


def _grid(grid: Grid) -> str:
    numeric = [' class="number"' if at in grid.numeric else "" for at in range(len(grid.heads))]
    heads = "".join(
        f'<th scope="col"{kind}>{escape(head)}</th>'
        for head, kind in zip(grid.heads, numeric, strict=True)
    )
    rows = "\n".join(
        "<tr>"
        + "".join(f"<td{kind}>{_line(line)}</td>" for line, kind in zip(row, numeric, strict=True))
        + "</tr>"
        for row in grid.rows
    )
    return (
        '<div class="scroll">\n<table>\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
    )


def _image(file: str, alt: str) -> str:
    return f'<img src="{escape(file)}" alt="{escape(alt)}">'


def _line(line: Line) -> str:
    return "".join(_inline(part) for part in line)


def _inline(part: Inline) -> str:
    match part:
        case Link(text, target):
            return f'<a href="{escape(target)}">{escape(text)}</a>'
        case Strong(text, kind):
            classes = f' class="verdict {escape(kind)}"' if kind else ""
            return f"<strong{classes}>{escape(text)}</strong>"
        case Code(text):
            return f"<code>{escape(text)}</code>"
        case str():
            return escape(part)
