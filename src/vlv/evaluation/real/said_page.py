"""Pages of results that show images with what was said of them: captions, answers, sentences.

Knows images and texts; what the texts and their scores are is not its business.
"""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from vlv.data.images import MAX_OWN_PIXELS, load_image
from vlv.data.lenient import Unusable
from vlv.data.teacher.sets import dataset_items
from vlv.errors import DatasetError, ImageError
from vlv.evaluation.real.result_page import Section, page_tables, thumbnail
from vlv.evaluation.results import Result
from vlv.html import render


@dataclass(frozen=True)
class Said:
    """A text on the page, with whose it is and its scores as text."""

    name: str
    text: str
    scores: str = ""


@dataclass(frozen=True)
class Shown:
    """One image on the page; picture: its address, None where it does not decode."""

    name: str
    picture: str | None
    said: list[Said]


def said_page(result: Result, sections: Sequence[Section[Shown]]) -> str:
    """The page as HTML. Sections without images are left out."""
    return render(
        "vlv.evaluation.real",
        "said.html.j2",
        title=result.title,
        notes=result.notes,
        tables=page_tables(result),
        sections=[section for section in sections if section.images],
    )


def shown_picture(opened: Callable[[], Image.Image]) -> str | None:
    """The address of a small picture; None where it does not decode."""
    try:
        return thumbnail(opened())
    except (ImageError, DatasetError):
        return None  # named before, as an image that is refused


def shown_pictures(source: Path, names: Container[str]) -> dict[str, str | None]:
    """`shown_picture` of the images of a set that have these names.

    Raises:
        DatasetError: the set cannot be read.
    """
    return {
        name: shown_picture(partial(load_image, sample.image, max_pixels=MAX_OWN_PIXELS))
        for name, sample in dataset_items(source)
        if name in names and not isinstance(sample, Unusable)
    }


def with_pictures(source: Path, sections: Sequence[Section[Shown]]) -> list[Section[Shown]]:
    """The same with the pictures of the set.

    Raises:
        DatasetError: the set cannot be read.
    """
    names = {one.name for section in sections for one in section.images}
    pictures = shown_pictures(source, names)
    return [
        Section(
            section.title,
            [Shown(one.name, pictures.get(one.name), one.said) for one in section.images],
        )
        for section in sections
    ]
