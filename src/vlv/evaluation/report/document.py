"""What a page is made of: blocks from which HTML and Markdown are written.

Knows nothing of measuring. Text is plain; the writers escape it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Link:
    """Text that leads to a file beside the page, or to the `#slug` of a heading."""

    tag: ClassVar = "link"
    text: str
    target: str


@dataclass(frozen=True)
class Strong:
    """Bold text. kind: a class of the style sheet for verdicts; empty for anything else."""

    tag: ClassVar = "strong"
    text: str
    kind: str = ""


@dataclass(frozen=True)
class Code:
    """Commands, hashes, names of fields."""

    tag: ClassVar = "code"
    text: str


Inline = str | Link | Strong | Code
Line = Sequence[Inline]


@dataclass(frozen=True)
class Heading:
    """A heading; links can lead to those of the first two levels."""

    tag: ClassVar = "heading"
    text: str
    level: int

    @property
    def slug(self) -> str:
        """Its anchor, the same as on GitHub."""
        return slug(self.text)


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    tag: ClassVar = "paragraph"
    line: Line


@dataclass(frozen=True)
class Bullets:
    """A list."""

    tag: ClassVar = "bullets"
    lines: Sequence[Line]


@dataclass(frozen=True)
class Grid:
    """A table. numeric: columns that are aligned to the right."""

    tag: ClassVar = "grid"
    heads: Sequence[str]
    rows: Sequence[Sequence[Line]]
    numeric: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A picture in a file beside the page. svg: the content of the file, for plots."""

    tag: ClassVar = "picture"
    file: str
    alt: str
    svg: str | None = None


Block = Heading | Paragraph | Bullets | Grid | Picture


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
