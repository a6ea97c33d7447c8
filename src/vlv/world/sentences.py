"""The sentences that every caption needs: where objects stand, on which floor, in which light.

Every function draws one of several phrasings. Sentences have no capital and no full stop;
captions.py puts them together.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from vlv.world.lexicon import (
    NUMBERS,
    PLACE_PHRASES,
    PLURAL_VERBS,
    SINGULAR_VERBS,
    column_of,
    noun_phrases,
    row_of,
)
from vlv.world.scene import Scene, SceneObject

_DRAWS = 64

T = TypeVar("T")
Item = tuple[str, str]  # noun phrase, place phrase


class Dice:
    """Fast single draws from a numpy generator, which are taken in blocks."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._left: list[float] = []

    def draw(self) -> float:
        """A number in [0, 1)."""
        if not self._left:
            self._left = self._rng.random(_DRAWS).tolist()
        return self._left.pop()

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, each with equal chance."""
        return options[int(self.draw() * len(options))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """All options in random order."""
        rest = list(options)
        return [rest.pop(int(self.draw() * len(rest))) for _ in options]


def item(obj: SceneObject, dice: Dice, plain: float) -> Item:
    """An object's noun phrase, the shortest one with chance `plain`, and its place."""
    nouns = noun_phrases(obj)
    noun = nouns[0] if dice.draw() < plain else dice.pick(nouns[1:])
    return noun, dice.pick(PLACE_PHRASES[column_of(obj.x), row_of(obj.z)])


def _listed(parts: Sequence[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2:
        return f"{parts[0]} and {parts[1]}"
    return f"{', '.join(parts[:-1])}, and {parts[-1]}"


def _each_stands(items: list[Item], dice: Dice) -> str:
    verbs = dice.shuffled(SINGULAR_VERBS)
    return _listed([f"{noun} {verbs.pop()} {place}" for noun, place in items])


def _one_stands(items: list[Item], dice: Dice) -> str:
    (noun, place), rest = items[0], items[1:]
    first = f"{noun} {dice.pick(SINGULAR_VERBS)} {place}"
    return _listed([first, *(f"{n} {p}" for n, p in rest)])


def _stands_with(items: list[Item], dice: Dice) -> str:
    (noun, place), rest = items[0], items[1:]
    others = _listed([f"{n} {p}" for n, p in rest])
    return f"{noun} {dice.pick(SINGULAR_VERBS)} {place}, with {others}"


def _while_stands(items: list[Item], dice: Dice) -> str:
    last = _each_stands(items[-1:], dice)
    comma = "," if len(items) > 2 or dice.draw() < 0.5 else ""
    return f"{_one_stands(items[:-1], dice)}{comma} while {last}"


def _place_first(items: list[Item], dice: Dice) -> str:
    (noun, place), rest = items[0], items[1:]
    verb = dice.pick(("stands", "sits", "rests", "is", "there is"))
    return _listed([f"{place} {verb} {noun}", *(f"{p} {n}" for n, p in rest)])


def _there_is(items: list[Item], dice: Dice) -> str:
    return f"there is {_listed([f'{n} {p}' for n, p in items])}"


def _shown(items: list[Item], dice: Dice) -> str:
    opening = dice.pick(("the picture shows", "the scene has", "you can see", "we see"))
    return f"{opening} {_listed([f'{n} {p}' for n, p in items])}"


def _identified(items: list[Item], dice: Dice) -> str:
    noun, place = items[0]
    return f"the object {place} is {noun}"


BodyForm = Callable[[list[Item], Dice], str]
_SINGLE: tuple[BodyForm, ...] = (
    _one_stands,
    _one_stands,
    _place_first,
    _place_first,
    _there_is,
    _shown,
    _identified,
)
_SEVERAL: tuple[BodyForm, ...] = (
    _each_stands,
    _one_stands,
    _stands_with,
    _while_stands,
    _place_first,
    _place_first,
    _there_is,
    _shown,
)


def body(items: list[Item], dice: Dice) -> str:
    """Where the objects of a group stand."""
    return dice.pick(_SINGLE if len(items) == 1 else _SEVERAL)(items, dice)


# Not every form reads well after "On a gray floor,".
_AFTER_OPENING: tuple[BodyForm, ...] = (_each_stands, _one_stands, _stands_with, _there_is)
_AFTER_OPENING_SINGLE: tuple[BodyForm, ...] = (_one_stands, _there_is)


def body_after_opening(items: list[Item], dice: Dice) -> str:
    """Where the objects of a group stand, for use after `opening`."""
    forms = _AFTER_OPENING_SINGLE if len(items) == 1 else _AFTER_OPENING
    return dice.pick(forms)(items, dice)


_FLOOR = (
    "the floor is {floor}",
    "the scene has a {floor} floor",
    "the color of the floor is {floor}",
)
_LIGHT = (
    "the light comes from the {light}",
    "light falls from the {light}",
    "the scene is lit from the {light}",
)
_FLOOR_AND_LIGHT = (
    "the floor is {floor} and the light comes from the {light}",
    "the floor is {floor}, and light falls from the {light}",
    "the light comes from the {light} and the floor is {floor}",
    "the {floor} floor is lit from the {light}",
    "the floor is {floor} and lit from the {light}",
    "light from the {light} falls on the {floor} floor",
    "light falls on the {floor} floor from the {light}",
    "the scene has a {floor} floor and is lit from the {light}",
    "the scene has a {floor} floor, with light from the {light}",
)
_ON_FLOOR = (
    "on a {floor} floor lit from the {light}",
    "on a {floor} floor with light from the {light}",
)
_BRIEF_FLOOR = "on a {floor} floor"


def setting(scene: Scene, dice: Dice) -> list[str]:
    """One or two sentences about floor and light."""
    if dice.draw() < 0.8:
        return [dice.pick(_FLOOR_AND_LIGHT).format(floor=scene.floor, light=scene.light)]
    sentences = [
        dice.pick(_FLOOR).format(floor=scene.floor),
        light(scene, dice),
    ]
    return dice.shuffled(sentences)


def light(scene: Scene, dice: Dice) -> str:
    """Which side the light comes from."""
    return dice.pick(_LIGHT).format(light=scene.light)


def opening(scene: Scene, dice: Dice) -> tuple[str, bool]:
    """The words before the first body sentence, and whether they name the light."""
    if dice.draw() < 0.7:
        return dice.pick(_ON_FLOOR).format(floor=scene.floor, light=scene.light) + ",", True
    return _BRIEF_FLOOR.format(floor=scene.floor) + ",", False


def closing(scene: Scene, count: int, dice: Dice) -> str:
    """The words after the only body sentence, as in ", all on a gray floor lit from the left"."""
    on_floor = dice.pick(_ON_FLOOR).format(floor=scene.floor, light=scene.light)
    if count == 1:
        return f" {on_floor}"
    return f", {'both' if count == 2 else 'all'} {on_floor}"


def count_on_floor(scene: Scene, dice: Dice) -> str:
    """How many objects there are, on which floor, in which light."""
    number = NUMBERS[len(scene.objects)]
    on_floor = dice.pick(_ON_FLOOR).format(floor=scene.floor, light=scene.light)
    verb = dice.pick(PLURAL_VERBS)
    return dice.pick(
        (
            f"{number} objects {verb} {on_floor}",
            f"there are {number} objects {on_floor}",
            f"the picture shows {number} objects {on_floor}",
        )
    )
