"""What a page is made of: blocks that HTML and Markdown are both written from.

Knows nothing of measuring. Text is plain; whoever writes it out escapes it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """Text that leads to a file beside the page, or to a heading's `#slug`."""

    text: str
    target: str


@dataclass(frozen=True)
class Strong:
    """Text that stands out. kind: a class of the style sheet, if it is more than that."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Code:
    """Text of a machine: commands, hashes, names of fields."""

    text: str


Inline = str | Link | Strong | Code
Line = Sequence[Inline]


@dataclass(frozen=True)
class Heading:
    """A heading; those of the first two levels can be linked to."""

    text: str
    level: int

    @property
    def slug(self) -> str:
        """Its anchor, made as forges make it."""
        return slug(self.text)


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    line: Line


@dataclass(frozen=True)
class Bullets:
    """A list."""

    lines: Sequence[Line]


@dataclass(frozen=True)
class Grid:
    """A table. numeric: columns that are set to the right."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Line]]
    numeric: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A picture in a file beside the page; svg is its text where it is a plot."""

    file: str
    alt: str
    svg: str | None = None


Block = Heading | Paragraph | Bullets | Grid | Picture


def slug(heading: str) -> str:
    """The anchor that forges give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
