"""The page of `vlv eval boxes3d`: images beside the first model's pictures, and their boxes."""

from collections.abc import Mapping

import numpy as np

from vlv.evaluation.metrics.boxes import Box3D
from vlv.evaluation.real.boxes3d import Compared, compared
from vlv.evaluation.real.boxes3d_pictures import ComparedPictures, DrawnSet
from vlv.evaluation.real.result_page import (
    Panel,
    Shown,
    best_worst_random,
    images_page,
    thumbnail,
)
from vlv.evaluation.results import Result


def boxes_page(
    result: Result,
    pictures: ComparedPictures,
    values: Mapping[str, Mapping[str, str]],
    seed: int,
) -> str:
    """The page as HTML. Images are ordered by the centre error of the first model, as the first
    judge sees it; those without a matched box are left out.
    """
    judge, answers = next(iter(values.items()))
    drawn = pictures.drawn[0]
    known = [one for one in compared(drawn, answers) if one.pairs]
    errors = [sum(gap.centre for _, _, gap in one.pairs) / len(one.pairs) for one in known]
    by = f"centre error of {drawn.name}, by {judge}"
    numbers = {name: at for at, name in pictures.images()}

    def show(at: int) -> Shown:
        one = known[at]
        original = thumbnail(pictures.original(numbers[one.image], drawn.side))
        return _shown(drawn, original, one)

    sections = best_worst_random(np.array(errors), f"Highest {by}", f"Lowest {by}", show, seed)
    return images_page(result, [section for section in sections if section.images])


def _shown(drawn: DrawnSet, original: str, one: Compared) -> Shown:
    gaps = "; ".join(
        f"{first.name}: angle {gap.angle:.2f}, centre {gap.centre:.2f}, scale {gap.scale:.2f}"
        for first, _, gap in one.pairs
    )
    return Shown(
        one.image,
        [
            Panel("original", original, text=_places(one.original)),
            Panel(drawn.name, thumbnail(drawn.picture(one.image)), f"({gaps})", _places(one.drawn)),
        ],
    )


def _places(boxes: list[Box3D]) -> str:
    return "; ".join(
        f"{box.name} at {', '.join(f'{value:.1f}' for value in box.centre)} m" for box in boxes
    )
