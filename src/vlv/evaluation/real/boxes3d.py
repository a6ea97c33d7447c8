"""`vlv eval boxes3d SET`: 3D boxes of an image and of its picture drawn from embeddings (Table 6).

A vision-language model says which objects it sees and where they stand, of the image as the decoder
sees it and of the drawn picture, each in a question of its own. Boxes of one object are matched
(metrics/boxes.py), and their differences show what of the layout the embeddings kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from vlv.endpoints.chat import Chat, json_schema, object_in
from vlv.endpoints.endpoint import jpeg_for
from vlv.evaluation.metrics.boxes import Box3D, Difference, match
from vlv.evaluation.metrics.statistics import Array, Bootstrap, Figure, Ratio
from vlv.evaluation.real.boxes3d_pictures import ComparedPictures, DrawnSet
from vlv.evaluation.real.judging import Judge
from vlv.evaluation.results import PART, Label, Result, Row

INSTRUCTION = (
    "You locate objects in a picture in three dimensions. List the main objects, people and "
    "animals that can be seen, at most 10, the largest first. Give each a short name in English, "
    "such as cup or traffic light, and its 3D bounding box: x, y and z are the centre in metres "
    "from the camera (x to the right, y down, z forward); width, height and depth are the size in "
    "metres; roll, pitch and yaw are angles in degrees. Answer with JSON only."
)
QUESTION = "Which objects are there, and where do they stand?"
ERRORS, DIFFERENCES = "errors", "differences to the first model"
CONTROL = "of another image"
_CENTRE, _SIZE, _ANGLES = ("x", "y", "z"), ("width", "height", "depth"), ("roll", "pitch", "yaw")
_NUMBERS = (*_CENTRE, *_SIZE, *_ANGLES)
_TOKENS = 1500
# A list that is longer is a loop of repetitions.
_MOST = 50
# Metres: what is farther or larger is no measure.
_FARTHEST = 1e5


@dataclass(frozen=True)
class BoxesForm:
    """A list of objects with nine numbers each."""

    @property
    def response_format(self) -> dict[str, Any]:
        """Plain fields in place of arrays of three, whose length not every server can hold to."""
        box = {"name": {"type": "string"}, **{name: {"type": "number"} for name in _NUMBERS}}
        return json_schema("boxes", _object({"objects": {"type": "array", "items": _object(box)}}))

    def read(self, text: str) -> Mapping[str, Any] | None:
        """The objects; None where one lacks a name or a number, or cannot be a box."""
        value = object_in(text)
        if not isinstance(value, dict) or value.keys() != {"objects"}:
            return None
        objects = value["objects"]
        if not isinstance(objects, list) or len(objects) > _MOST:
            return None
        return value if all(_is_box(one) for one in objects) else None


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _is_box(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"name", *_NUMBERS}:
        return False
    numbers = [value[name] for name in _NUMBERS]
    return (
        isinstance(value["name"], str)
        and bool(value["name"].strip())
        and all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers)
        # NaN is not, and an integer may be larger than any float.
        and all(abs(one) <= _FARTHEST for one in numbers)
        and all(value[name] > 0 for name in _SIZE)
    )


def boxes_in(answer: Mapping[str, Any]) -> list[Box3D]:
    """The boxes of an answer that has the form."""

    def three(one: Mapping[str, Any], names: tuple[str, ...]) -> tuple[float, float, float]:
        first, second, third = (float(one[name]) for name in names)
        return first, second, third

    return [
        Box3D(one["name"].strip(), three(one, _CENTRE), three(one, _SIZE), three(one, _ANGLES))
        for one in answer["objects"]
    ]


def box_questions(pictures: ComparedPictures, judge: Judge) -> Iterator[Chat]:
    """Two questions an image and model: of the image, which models of one size share, and of the
    picture.
    """
    for at, name in pictures.images():
        for side in dict.fromkeys(one.side for one in pictures.drawn):
            key = f"{pictures.originals.hashes[at]}/square/{side}"
            yield _chat(
                judge, original_name(name, side), key, partial(_original, pictures, at, side)
            )
        for one in pictures.drawn:
            key = one.hashes[name]
            yield _chat(judge, drawn_name(name, one), key, partial(_picture, one, name))


def original_name(image: str, size: int) -> str:
    """Of the question about an image."""
    return f"{image} (original, {size} pixels)"


def drawn_name(image: str, drawn: DrawnSet) -> str:
    """Of the question about a drawn picture."""
    return f"{image} (drawn by {drawn.name})"


def _chat(judge: Judge, name: str, key: str, jpeg: Any) -> Chat:
    return Chat(
        name=name,
        model=judge.model,
        instruction=INSTRUCTION,
        text=QUESTION,
        pictures=[(key, jpeg)],
        form=BoxesForm(),
        max_tokens=_TOKENS,
        scope=judge.name,
        extra=judge.extra_body,
    )


def _original(pictures: ComparedPictures, at: int, side: int) -> bytes:
    return jpeg_for(pictures.original(at, side), side)


def _picture(drawn: DrawnSet, image: str) -> bytes:
    return jpeg_for(drawn.picture(image), drawn.side)


@dataclass(frozen=True)
class Compared:
    """Boxes of an image and of a picture, and the pairs among them."""

    image: str
    original: list[Box3D]
    drawn: list[Box3D]
    pairs: list[tuple[Box3D, Box3D, Difference]]


def compared(
    by: DrawnSet, answers: Mapping[str, str], *, of_another: bool = False
) -> list[Compared]:
    """One for each image whose two questions have answers. of_another: each image with the picture
    of the next one, as a control.
    """
    form = BoxesForm()

    def read(name: str) -> list[Box3D] | None:
        answer = form.read(answers[name]) if name in answers else None
        return None if answer is None else boxes_in(answer)

    known = []
    for image in by.files:
        original = read(original_name(image, by.side))
        drawn = read(drawn_name(image, by))
        if original is not None and drawn is not None:
            known.append((image, original, drawn))
    others = [*known[1:], *known[:1]] if of_another else known
    return [
        Compared(image, original, drawn, match(original, drawn))
        for (image, original, _), (_, _, drawn) in zip(known, others, strict=True)
    ]


def boxes_result(
    drawn: Sequence[DrawnSet],
    values: Mapping[str, Mapping[str, str]],
    seed: int,
    provenance: dict[str, Any],
) -> Result:
    """Errors by judge and model, with the control of pictures of other images; and differences."""
    rows: list[Row] = []
    differences: list[Row] = []
    for judge, answers in values.items():
        found = {one.name: compared(one, answers) for one in drawn}
        for one in drawn:
            rows += _rows(judge, one.name, found[one.name], seed)
            if len(found[one.name]) > 1:
                control = compared(one, answers, of_another=True)
                rows += _rows(judge, f"{one.name}, {CONTROL}", control, seed)
        first, *others = found
        for second in others:
            differences += _difference_rows(judge, first, second, found, seed)
    return Result(
        name="boxes3d",
        title="3D boxes of images and of pictures drawn from their embeddings",
        paper="Table 6",
        rows=[*rows, *differences],
        notes=[
            "L1 errors over matched boxes, each the mean of three axes: angle in radians (a half "
            "turn is none), centre and scale in metres as the model estimates them. Matched: the "
            "share of the image's boxes that have a partner in the picture; an error says nothing "
            "of the others.",
            f"“{CONTROL}” compares each image with the picture of the next one: what a layout that "
            "is not kept gives. Intervals are from resampled images.",
            "The paper reports, after 8M, 18M, 34M and 40M images of stage 1, angle .1564, .1287, "
            ".1227, .1016; centre .1625, .1498, .1402, .0988; scale .1775, .1773, .1835, .1222. It "
            "states no units and no way of matching, so compare rows of one table only.",
        ],
        provenance=provenance,
    )


def _sums(many: Sequence[Compared], name: str) -> Array:
    return np.array([sum(getattr(gap, name) for _, _, gap in one.pairs) for one in many], float)


def _ratios(many: Sequence[Compared]) -> dict[str, Ratio]:
    pairs = np.array([len(one.pairs) for one in many], float)
    originals = np.array([len(one.original) for one in many], float)
    drawn = np.array([len(one.drawn) for one in many], float)
    ones = np.ones(len(many))
    return {
        "angle_error": Ratio(_sums(many, "angle"), pairs),
        "centre_error": Ratio(_sums(many, "centre"), pairs),
        "scale_error": Ratio(_sums(many, "scale"), pairs),
        "matched": Ratio(pairs, originals),
        "boxes": Ratio(originals, ones),
        "boxes_drawn": Ratio(drawn, ones),
    }


def _rows(judge: str, name: str, many: Sequence[Compared], seed: int) -> Iterator[Row]:
    if not many:
        return
    figures = Bootstrap(len(many), seed).figures(_ratios(many))
    label: dict[str, Label] = {PART: ERRORS, "judge": judge, "drawn by": name}
    yield Row(label, len(many), figures)


def _difference_rows(
    judge: str, first: str, second: str, found: Mapping[str, Sequence[Compared]], seed: int
) -> Iterator[Row]:
    """Over the images that both have."""
    shared = {one.image for one in found[first]} & {one.image for one in found[second]}
    if not shared:
        return
    ours, theirs = (
        _ratios([one for one in found[name] if one.image in shared]) for name in (second, first)
    )
    bootstrap = Bootstrap(len(shared), seed)
    figures: dict[str, Figure] = {
        name: bootstrap.difference(ours[name], theirs[name])
        for name in ("angle_error", "centre_error", "scale_error", "matched")
    }
    label: dict[str, Label] = {PART: DIFFERENCES, "judge": judge, "drawn by": second}
    yield Row(label, len(shared), figures)


def box_lines(
    drawn: Sequence[DrawnSet], values: Mapping[str, Mapping[str, str]]
) -> Iterator[dict[str, Any]]:
    """One JSON object for each image, model and judge, with all boxes and pairs."""
    for judge, answers in values.items():
        for by in drawn:
            for one in compared(by, answers):
                yield {
                    "file_name": one.image,
                    "judge": judge,
                    "drawn_by": by.name,
                    "original": [vars(box) for box in one.original],
                    "drawn": [vars(box) for box in one.drawn],
                    "pairs": [
                        {"original": a.name, "drawn": b.name, **vars(gap)}
                        for a, b, gap in one.pairs
                    ],
                }
