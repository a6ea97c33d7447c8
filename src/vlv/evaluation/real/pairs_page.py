"""The page of `vlv eval pairs`: its tables, and the best, worst and random captions with their
images. One file, no scripts, no network.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vlv.errors import DatasetError, ImageError
from vlv.evaluation.real.pairs import Pairs, Scored
from vlv.evaluation.report.tables import table_cells
from vlv.evaluation.results import PART, Result, row_groups
from vlv.html import data_uri, render

SHOWN = 8
# Pixels of the longer side.
_SIDE = 384


@dataclass(frozen=True)
class Said:
    """A caption on the page, with its scores as text."""

    name: str
    text: str
    scores: str


@dataclass(frozen=True)
class Shown:
    """One image on the page; picture: None where it does not decode."""

    name: str
    picture: str | None
    references: list[str]
    captions: list[Said]


@dataclass(frozen=True)
class Section:
    """Some images under a heading."""

    title: str
    images: list[Shown]


def pairs_page(result: Result, pairs: Pairs, scored: Sequence[Scored], *, seed: int) -> str:
    """The page as HTML. Images are ordered by the first captioner: by CLIPScore where there is one,
    else by CIDEr.
    """
    tables = []
    for rows in row_groups(result.rows):
        labels, columns, cells = table_cells(rows)
        heads = [*labels, *(one.heading for one in columns), "n"]
        title = str(rows[0].labels[PART])
        tables.append({"title": title, "heads": heads, "labels": len(labels), "rows": cells})
    return render(
        "vlv.evaluation.real",
        "pairs.html.j2",
        title=result.title,
        notes=result.notes,
        tables=tables,
        sections=_sections(pairs, scored, seed),
    )


def _sections(pairs: Pairs, scored: Sequence[Scored], seed: int) -> list[Section]:
    first = scored[0]
    by, values = ("CIDEr", first.cider) if first.clip is None else ("CLIPScore", first.clip)
    order = [int(at) for at in np.argsort(-values, kind="stable")]
    drawn = np.random.default_rng(seed).permutation(len(order))[:SHOWN]
    places = {
        f"Highest {by} of {first.captions.name}": order[:SHOWN],
        f"Lowest {by} of {first.captions.name}": order[::-1][:SHOWN],
        "Drawn at random": sorted(int(at) for at in drawn),
    }
    return [
        Section(title, [_shown(pairs, scored, at) for at in chosen])
        for title, chosen in places.items()
    ]


def _shown(pairs: Pairs, scored: Sequence[Scored], at: int) -> Shown:
    captions = [Said(one.captions.name, one.captions.texts[at], _scores(one, at)) for one in scored]
    return Shown(pairs.names[at], _picture(pairs, at), pairs.references[at], captions)


def _scores(one: Scored, at: int) -> str:
    clip = "" if one.clip is None else f", CLIPScore {one.clip[at]:.3f}"
    return f"CIDEr {one.cider[at]:.3f}{clip}"


def _picture(pairs: Pairs, at: int) -> str | None:
    try:
        picture = pairs.picture(at)
    except (ImageError, DatasetError):
        return None  # named before, as an image that is refused
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return data_uri("picture.jpg", buffer.getvalue())
