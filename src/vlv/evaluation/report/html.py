"""Blocks as one HTML file that holds its pictures: no scripts, no network."""

from collections.abc import Sequence
from pathlib import Path

from vlv.evaluation.report.document import Block
from vlv.html import data_uri, render


def html_page(title: str, blocks: Sequence[Block], folder: Path) -> str:
    """The whole page. folder: where the files of its pictures are."""
    return render(
        "vlv.evaluation.report",
        "report.html.j2",
        title=title,
        blocks=blocks,
        embedded=lambda file: data_uri(file, (folder / file).read_bytes()),
    )
