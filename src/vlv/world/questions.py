"""Questions about a scene in English, with their exact true answers.

Every question carries its structured form, so that answering.py has to read captions only. Answers
are single words of scene.py, `yes` and `no`, or a number in digits.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, permutations, product

import numpy as np

from vlv.errors import WorldError
from vlv.world.judging import MARGIN
from vlv.world.lexicon import NUMBERS, article
from vlv.world.reading import CaptionObject
from vlv.world.scene import (
    COLORS,
    FLOORS,
    HELD_OUT_PAIRS,
    LIGHTS,
    MATERIALS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
)
from vlv.world.sentences import Dice

QUESTION_KINDS = ("existence", "count", "attribute", "comparison", "relation", "floor", "light")
# Every scene has at least this many questions.
MOST_QUESTIONS = 30
# Least distance in x or z between the objects of a question about left, right, front and behind.
# A caption's word for a place is true up to MARGIN beyond the edge of the place. With twice that
# distance two true words never give the wrong order.
CLEAR = 2 * MARGIN

YES_NO = ("yes", "no")
_COUNTS = tuple(str(number) for number in range(len(NUMBERS)))
_WORDS = {"size": SIZES, "material": MATERIALS, "color": COLORS, "shape": SHAPES}


@dataclass(frozen=True)
class Description:
    """Words of a question for objects, as in "large red cube"; None leaves a fact open."""

    size: str | None = None
    material: str | None = None
    color: str | None = None
    shape: str | None = None

    @property
    def facts(self) -> dict[str, str]:
        """The words by fact, without the open ones."""
        return {fact: word for fact, word in vars(self).items() if word is not None}

    def fits(self, obj: SceneObject | CaptionObject) -> bool | None:
        """Whether an object has all these facts; None if a caption leaves it open."""
        same = [
            None if known is None else known == word
            for fact, word in self.facts.items()
            for known in [getattr(obj, fact)]
        ]
        return False if False in same else None if None in same else True

    def __str__(self) -> str:
        return " ".join((*self.facts.values(), *(() if self.shape else ("object",))))


@dataclass(frozen=True)
class Question:
    """A question about one scene.

    Attributes:
        kind: one of `QUESTION_KINDS`.
        text: the question in English.
        answer: the true answer, one of `choices`.
        choices: all answers that the question allows.
        fact: what is asked of the objects: for an attribute `color`, `shape`, `size` or
            `material`; for a comparison `number` or `size`; for a relation its words. Otherwise "".
        first: the objects asked about. Without facts it means all objects. For attributes,
            relations and comparisons of size it fits one object of the scene.
        second: those that the first are compared or related with.
    """

    kind: str
    text: str
    answer: str
    choices: tuple[str, ...]
    fact: str = ""
    first: Description = Description()
    second: Description = Description()


def questions_about(scene: Scene, count: int, rng: np.random.Generator) -> list[Question]:
    """`count` different questions, as evenly divided among the kinds as the scene allows.

    Raises:
        WorldError: `count` exceeds `MOST_QUESTIONS`.
    """
    if count > MOST_QUESTIONS:
        raise WorldError(f"up to {MOST_QUESTIONS} questions can be asked of a scene, not {count}")
    dice = Dice(rng)
    found: dict[str, Question] = {}
    while len(found) < count:
        for kind in dice.shuffled(QUESTION_KINDS)[: count - len(found)]:
            question = _DRAW[kind](scene, dice)
            if question:
                found.setdefault(question.text, question)
    return list(found.values())


# What questions about existence name: mostly a colour and a shape, as captions do.
_EXISTENCE_FACTS = (
    ("color", "shape"),
    ("color", "shape"),
    ("size", "shape"),
    ("material", "shape"),
    ("shape",),
    ("color",),
)


def _existence(scene: Scene, dice: Dice) -> Question | None:
    facts, there = dice.pick(_EXISTENCE_FACTS), dice.draw() < 0.5
    if there:
        asked = _described(dice.pick(scene.objects), facts)
    else:
        absent = [one for one in _plausible(facts, scene) if not _number(one, scene)]
        if not absent:
            return None
        asked = dice.pick(absent)
    text = f"Is there {article(str(asked))} {asked}?"
    return Question("existence", text, _yes_no(there), YES_NO, first=asked)


_COUNTED_FACTS: tuple[tuple[str, ...], ...] = (
    (),
    ("shape",),
    ("color",),
    ("size",),
    ("material",),
)


def _count(scene: Scene, dice: Dice) -> Question:
    facts = dice.pick(_COUNTED_FACTS)
    # The count of a random word is mostly zero.
    if dice.draw() < 0.7:
        asked = _described(dice.pick(scene.objects), facts)
    else:
        asked = dice.pick(list(_plausible(facts, scene)))
    number = str(_number(asked, scene))
    return Question("count", f"How many {asked}s are there?", number, _COUNTS, first=asked)


_ATTRIBUTE_TEXTS = {
    "color": "What color is the {}?",
    "shape": "What shape is the {}?",
    "size": "Is the {} small or large?",
    "material": "Is the {} matte or shiny?",
}


def _attribute(scene: Scene, dice: Dice) -> Question | None:
    fact, obj = dice.pick(list(_ATTRIBUTE_TEXTS)), dice.pick(scene.objects)
    name = _name(obj, scene, dice, without=fact)
    if name is None:
        return None
    text = _ATTRIBUTE_TEXTS[fact].format(name)
    return Question("attribute", text, getattr(obj, fact), _WORDS[fact], fact, name)


def _comparison(scene: Scene, dice: Dice) -> Question | None:
    return (_more if dice.draw() < 0.5 else _same_size)(scene, dice)


def _more(scene: Scene, dice: Dice) -> Question | None:
    number = {shape: _number(Description(shape=shape), scene) for shape in SHAPES}
    more = dice.draw() < 0.5
    pairs = [
        (a, b)
        for a, b in permutations(SHAPES, 2)
        if number[a] + number[b] and (number[a] > number[b]) == more
    ]
    if not pairs:
        return None
    a, b = (Description(shape=shape) for shape in dice.pick(pairs))
    text = f"Are there more {a}s than {b}s?"
    return Question("comparison", text, _yes_no(more), YES_NO, "number", a, b)


def _same_size(scene: Scene, dice: Dice) -> Question | None:
    if len(scene.objects) < 2:
        return None
    one, other, *_ = dice.shuffled(scene.objects)
    a, b = (_name(obj, scene, dice, without="size") for obj in (one, other))
    assert a and b  # no two objects of a scene share colour and shape
    text, same = f"Is the {a} the same size as the {b}?", one.size == other.size
    return Question("comparison", text, _yes_no(same), YES_NO, "size", a, b)


# Relation -> its axis, and whether it holds for the object with the smaller value.
_AXES = {
    "to the left of": ("x", True),
    "to the right of": ("x", False),
    "in front of": ("z", True),
    "behind": ("z", False),
}


def _relation(scene: Scene, dice: Dice) -> Question | None:
    plain = [
        (relation, one, other, (getattr(one, axis) < getattr(other, axis)) == less)
        for relation, (axis, less) in _AXES.items()
        for one, other in permutations(scene.objects, 2)
        if abs(getattr(one, axis) - getattr(other, axis)) >= CLEAR
    ]
    if not plain:
        return None
    relation, one, other, holds = dice.pick(plain)
    a, b = _name(one, scene, dice), _name(other, scene, dice)
    assert a and b  # no two objects of a scene share colour and shape
    text = f"Is the {a} {relation} the {b}?"
    return Question("relation", text, _yes_no(holds), YES_NO, relation, a, b)


def _floor(scene: Scene, dice: Dice) -> Question:
    return Question("floor", "What color is the floor?", scene.floor, FLOORS)


def _light(scene: Scene, dice: Dice) -> Question:
    return Question("light", "Which side does the light come from?", scene.light, LIGHTS)


_DRAW: dict[str, Callable[[Scene, Dice], Question | None]] = {
    "existence": _existence,
    "count": _count,
    "attribute": _attribute,
    "comparison": _comparison,
    "relation": _relation,
    "floor": _floor,
    "light": _light,
}


def _yes_no(holds: bool) -> str:
    return "yes" if holds else "no"


def _number(description: Description, scene: Scene) -> int:
    return sum(description.fits(obj) is True for obj in scene.objects)


def _described(obj: SceneObject, facts: tuple[str, ...]) -> Description:
    return Description(**{fact: getattr(obj, fact) for fact in facts})


def _plausible(facts: tuple[str, ...], scene: Scene) -> Iterator[Description]:
    """Descriptions with these facts of objects that may be in training scenes with this floor."""
    for words in product(*(_WORDS[fact] for fact in facts)):
        one = Description(**dict(zip(facts, words, strict=True)))
        if one.color != scene.floor and (one.shape, one.color) not in HELD_OUT_PAIRS:
            yield one


def _name(obj: SceneObject, scene: Scene, dice: Dice, without: str = "") -> Description | None:
    """A description that fits only this object of the scene, with one or two facts if that is
    enough. None if there is none without the fact `without`.
    """
    facts = [fact for fact in _WORDS if fact != without]
    unique = [
        one
        for length in range(1, len(facts) + 1)
        for chosen in combinations(facts, length)
        if _number(one := _described(obj, chosen), scene) == 1
    ]
    short = [one for one in unique if len(one.facts) <= 2]
    return dice.pick(short or unique[:1]) if unique else None
