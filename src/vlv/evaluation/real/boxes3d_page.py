"""The page of `vlv eval boxes3d`: images beside the first model's pictures, and their boxes."""

from collections.abc import Mapping
from functools import partial

from PIL import Image

from vlv.data.images import MAX_OWN_PIXELS, load_image
from vlv.data.lenient import Unusable
from vlv.evaluation.metrics.boxes import Box3D
from vlv.evaluation.real.boxes3d import Boxes3D, Compared, compared
from vlv.evaluation.real.caption_run import set_items
from vlv.evaluation.real.picture_page import (
    Said,
    Section,
    Shown,
    picture_page,
    ranked,
    side_by_side,
    small_picture,
)
from vlv.evaluation.real.redrawn import Redrawn
from vlv.evaluation.results import Result
from vlv.models.preprocessing import square_crop


def boxes_page(result: Result, boxes: Boxes3D, values: Mapping[str, Mapping[str, str]]) -> str:
    """The page as HTML. Images are ordered by the centre error of the first model, as the first
    judge sees it; those without a matched box are left out of the order.
    """
    judge, answers = next(iter(values.items()))
    redrawn = boxes.redrawn[0]
    known = [one for one in compared(redrawn, answers) if one.pairs]
    errors = [sum(gap.centre for _, _, gap in one.pairs) / len(one.pairs) for one in known]
    by = f"centre error of {redrawn.name}, by {judge}"
    chosen = ranked(known, errors, by, boxes.seed)
    wanted = {one.image for many in chosen.values() for one in many}
    pictures = {
        name: small_picture(partial(_both, sample.image, redrawn, name))
        for name, sample in set_items(boxes.source, boxes.limit)
        if name in wanted and not isinstance(sample, Unusable)
    }
    sections = [
        Section(title, [_shown(one, pictures[one.image]) for one in many])
        for title, many in chosen.items()
        if many
    ]
    return picture_page(result, sections)


def _both(file: bytes, redrawn: Redrawn, name: str) -> Image.Image:
    original = square_crop(load_image(file, max_pixels=MAX_OWN_PIXELS), redrawn.size)
    return side_by_side(original, redrawn.picture(name))


def _shown(one: Compared, picture: str | None) -> Shown:
    said = [
        Said(
            f"{first.name}, {second.name}",
            f"{_place(first)}; in the picture {_place(second)}",
            f"angle {gap.angle:.2f}, centre {gap.centre:.2f}, scale {gap.scale:.2f}",
        )
        for first, second, gap in one.pairs
    ]
    left = len(one.original) - len(one.pairs)
    if left:
        said.append(Said("without a partner", f"{left} boxes of the image"))
    return Shown(one.image, picture, said)


def _place(box: Box3D) -> str:
    centre = ", ".join(f"{value:.2f}" for value in box.centre)
    return f"centre ({centre}) m"
