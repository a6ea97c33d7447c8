"""The page of `vlv eval boxes3d`: images beside the first model's pictures, and their boxes."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from vlv.data.images import MAX_OWN_PIXELS, load_image
from vlv.data.lenient import Unusable
from vlv.evaluation.metrics.boxes import Box3D
from vlv.evaluation.real.boxes3d import Boxes3D, Compared, compared
from vlv.evaluation.real.caption_run import set_items
from vlv.evaluation.real.redrawn import Redrawn
from vlv.evaluation.real.result_page import (
    Panel,
    Section,
    Shown,
    best_worst_random,
    images_page,
    thumbnail,
)
from vlv.evaluation.results import Result
from vlv.models.preprocessing import square_crop


def boxes_page(result: Result, boxes: Boxes3D, values: Mapping[str, Mapping[str, str]]) -> str:
    """The page as HTML. Images are ordered by the centre error of the first model, as the first
    judge sees it; those without a matched box are left out.
    """
    judge, answers = next(iter(values.items()))
    redrawn = boxes.redrawn[0]
    known = [one for one in compared(redrawn, answers) if one.pairs]
    errors = [sum(gap.centre for _, _, gap in one.pairs) / len(one.pairs) for one in known]
    by = f"centre error of {redrawn.name}, by {judge}"
    chosen = best_worst_random(
        np.array(errors), f"Highest {by}", f"Lowest {by}", known.__getitem__, boxes.seed
    )
    originals = _originals(boxes, redrawn, {one.image for many in chosen for one in many.images})
    show = partial(_shown, redrawn, originals)
    sections = [Section(many.title, list(map(show, many.images))) for many in chosen]
    return images_page(result, [section for section in sections if section.images])


def _originals(boxes: Boxes3D, redrawn: Redrawn, names: set[str]) -> dict[str, str]:
    """Addresses of the images as the decoder sees them."""
    return {
        name: thumbnail(
            square_crop(load_image(sample.image, max_pixels=MAX_OWN_PIXELS), redrawn.size)
        )
        for name, sample in set_items(boxes.source, boxes.limit)
        if name in names and not isinstance(sample, Unusable)
    }


def _shown(redrawn: Redrawn, originals: Mapping[str, str], one: Compared) -> Shown:
    gaps = "; ".join(
        f"{first.name}: angle {gap.angle:.2f}, centre {gap.centre:.2f}, scale {gap.scale:.2f}"
        for first, _, gap in one.pairs
    )
    drawn = thumbnail(redrawn.picture(one.image))
    return Shown(
        one.image,
        [
            Panel("original", originals.get(one.image), text=_places(one.original)),
            Panel(redrawn.name, drawn, f"({gaps})", _places(one.drawn)),
        ],
    )


def _places(boxes: list[Box3D]) -> str:
    return "; ".join(
        f"{box.name} at {', '.join(f'{value:.1f}' for value in box.centre)} m" for box in boxes
    )
