"""Pages of results that show images with what was said of them: captions, answers, sentences.

Knows images and texts; what the texts and their scores are is not its business.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vlv.data.images import MAX_OWN_PIXELS, load_image
from vlv.data.lenient import Unusable
from vlv.data.teacher.sets import dataset_items
from vlv.errors import ImageError
from vlv.evaluation.real.pairs_page import TEMPLATE, Said, Shown
from vlv.evaluation.real.result_page import Section, sections_page, thumbnail
from vlv.evaluation.results import Result


def shown(name: str, said: Sequence[Said]) -> Shown:
    """An image of the page, whose picture `with_pictures` adds."""
    return Shown(name, None, [], list(said))


def said_page(result: Result, sections: Sequence[Section[Shown]]) -> str:
    """The page as HTML. Sections without images are left out."""
    return sections_page(TEMPLATE, result, [one for one in sections if one.images])


def with_pictures(source: Path, sections: Sequence[Section[Shown]]) -> list[Section[Shown]]:
    """The same with the pictures of the set.

    Raises:
        DatasetError: the set cannot be read.
    """
    names = {one.name for section in sections for one in section.images}
    pictures = {
        name: _picture(sample.image)
        for name, sample in dataset_items(source)
        if name in names and not isinstance(sample, Unusable)
    }
    return [
        Section(
            section.title,
            [replace(one, picture=pictures.get(one.name)) for one in section.images],
        )
        for section in sections
    ]


def _picture(file: bytes) -> str | None:
    try:
        return thumbnail(load_image(file, max_pixels=MAX_OWN_PIXELS))
    except ImageError:
        return None  # named before, as an image that is refused
