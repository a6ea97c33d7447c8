"""The pages of results on real images: tables, notes, and pictures under headings. One file each,
no scripts, no network.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image

from vlv.evaluation.metrics.statistics import Array
from vlv.evaluation.report.tables import table_cells
from vlv.evaluation.results import PART, Result, row_groups
from vlv.html import data_uri, render

T = TypeVar("T")
SHOWN = 8
# Pixels of the longer side.
_SIDE = 384


@dataclass(frozen=True)
class Panel:
    """One picture of an image's row. scores and text stand under it; picture: None where it does
    not decode.
    """

    label: str
    picture: str | None
    scores: str = ""
    text: str = ""


@dataclass(frozen=True)
class Shown:
    """One image: the original and what was drawn of it."""

    name: str
    panels: list[Panel]


@dataclass(frozen=True)
class Section(Generic[T]):
    """Some images under a heading."""

    title: str
    images: list[T]


def images_page(result: Result, sections: list[Section[Shown]]) -> str:
    """The page as HTML."""
    return sections_page("images.html.j2", result, sections)


def sections_page(template: str, result: Result, sections: Sequence[Section[T]]) -> str:
    """The tables of a result and its images, as HTML."""
    return render(
        "vlv.evaluation.real",
        template,
        title=result.title,
        notes=result.notes,
        tables=page_tables(result),
        sections=sections,
    )


def best_worst_random(
    values: Array, high: str, low: str, shown: Callable[[int], T], seed: int
) -> list[Section[T]]:
    """Images with the highest and with the lowest of some values (n,), under the headings `high`
    and `low`, and some at random.
    """
    order = [int(at) for at in np.argsort(-values, kind="stable")]
    drawn = np.random.default_rng(seed).permutation(len(order))[:SHOWN]
    places = {
        high: order[:SHOWN],
        low: order[::-1][:SHOWN],
        "Drawn at random": sorted(int(at) for at in drawn),
    }
    return [Section(title, [shown(at) for at in chosen]) for title, chosen in places.items()]


def page_tables(result: Result) -> list[dict[str, Any]]:
    """The tables of a result for a template."""
    tables = []
    for rows in row_groups(result.rows):
        labels, columns, cells = table_cells(rows)
        heads = [*labels, *(one.heading for one in columns), "n"]
        title = str(rows[0].labels[PART])
        tables.append({"title": title, "heads": heads, "labels": len(labels), "rows": cells})
    return tables


def thumbnail(picture: Image.Image) -> str:
    """The picture, made small, as the address of an `img`."""
    small = picture.copy()
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return data_uri("picture.jpg", buffer.getvalue())
