"""Pages of results with pictures: tables, and some images with what was said of each.

One file, no scripts, no network. Knows results and images; which images are shown is not its
business, except that ranked ones are the best, the worst and some at random.
"""

import io
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from vlv.data.images import MAX_OWN_PIXELS, load_image
from vlv.data.lenient import Unusable
from vlv.data.teacher.sets import dataset_items
from vlv.errors import DatasetError, ImageError
from vlv.evaluation.report.tables import table_cells
from vlv.evaluation.results import PART, Result, row_groups
from vlv.html import data_uri, render

T = TypeVar("T")
SHOWN = 8
# Pixels of the longer side.
_SIDE = 384


@dataclass(frozen=True)
class Said:
    """A text on the page, with whose it is and its scores as text."""

    name: str
    text: str
    scores: str = ""


@dataclass(frozen=True)
class Shown:
    """One image on the page; picture: its data URI, None where it does not decode."""

    name: str
    picture: str | None
    captions: list[Said]


@dataclass(frozen=True)
class Section:
    """Some images under a heading."""

    title: str
    images: list[Shown]


def picture_page(result: Result, sections: Sequence[Section]) -> str:
    """The page as HTML."""
    tables = []
    for rows in row_groups(result.rows):
        labels, columns, cells = table_cells(rows)
        heads = [*labels, *(one.heading for one in columns), "n"]
        title = str(rows[0].labels[PART])
        tables.append({"title": title, "heads": heads, "labels": len(labels), "rows": cells})
    return render(
        "vlv.evaluation.real",
        "pictures.html.j2",
        title=result.title,
        notes=result.notes,
        tables=tables,
        sections=sections,
    )


def ranked(names: Sequence[T], values: Sequence[float], by: str, seed: int) -> dict[str, list[T]]:
    """Heading -> those with the highest values, the lowest (lowest first), and some at random, in
    their order. by: what the values are.
    """
    order = [int(at) for at in np.argsort(-np.asarray(values), kind="stable")]
    drawn = sorted(np.random.default_rng(seed).permutation(len(order))[:SHOWN].tolist())
    places = {
        f"Highest {by}": order[:SHOWN],
        f"Lowest {by}": order[::-1][:SHOWN],
        "Drawn at random": drawn,
    }
    return {title: [names[at] for at in chosen] for title, chosen in places.items()}


def side_by_side(first: Image.Image, second: Image.Image) -> Image.Image:
    """Two pictures in one, the second as high as the first."""
    width = max(1, round(second.width * first.height / second.height))
    both = Image.new("RGB", (first.width + width, first.height))
    both.paste(first.convert("RGB"))
    both.paste(second.convert("RGB").resize((width, first.height)), (first.width, 0))
    return both


def small_picture(opened: Callable[[], Image.Image]) -> str | None:
    """The data URI of a small JPEG; None where the image does not decode."""
    try:
        picture = opened()
    except (ImageError, DatasetError):
        return None  # named before, as an image that is refused
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return data_uri("picture.jpg", buffer.getvalue())


def small_pictures(source: Path, names: Container[str]) -> dict[str, str | None]:
    """`small_picture` of the images of a set that have these names.

    Raises:
        DatasetError: the set cannot be read.
    """
    return {
        name: small_picture(partial(load_image, sample.image, max_pixels=MAX_OWN_PIXELS))
        for name, sample in dataset_items(source)
        if name in names and not isinstance(sample, Unusable)
    }
