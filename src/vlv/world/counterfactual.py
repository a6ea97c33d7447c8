"""Captions with a single error, which a check of captions must find.

Most are true captions of another scene, which differs from the given one in one fact. An object
that is moved or added touches no other object, but may hide more of one than in sampled scenes.
Objects that grow or swap places may also touch.
"""

import re
from dataclasses import replace

import numpy as np

from vlv.errors import WorldError
from vlv.world.captions import short_caption
from vlv.world.lexicon import NUMBERS, column_of, row_of
from vlv.world.scene import (
    COLORS,
    FLOORS,
    LIGHTS,
    MATERIALS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    floor_position,
)

ALTERATIONS = (
    "color",
    "shape",
    "size",
    "material",
    "place",
    "left-out object",
    "relation",
    "invented object",
    "floor",
    "light",
)
# Errors of captions. A caption that omits an object says nothing wrong.
ERRORS = (*(kind for kind in ALTERATIONS if kind != "left-out object"), "count")

# Distance of a moved object from the words for its old place, and distance in x or z between two
# objects that swap places: the error must be clearly visible.
_CLEAR_PLACE = 0.15
_CLEAR_PAIR = 0.25
_GAP = 0.25  # world units between an object and its neighbours
_TRIES = 1000
# Numbers of several objects that captions give; each is one token.
_SEVERAL = NUMBERS[2:4]


def wrong_caption(scene: Scene, kind: str, rng: np.random.Generator) -> str:
    """A short caption of a scene with one error of the given kind (one of `ERRORS`).

    `count` is a caption with a wrong number of objects.

    Raises:
        WorldError: as `alter`; for `count`, the scene does not have two or three objects.
    """
    if kind != "count":
        return short_caption(alter(scene, kind, rng), rng)
    number = NUMBERS[len(scene.objects)]
    if number not in _SEVERAL:
        raise WorldError(f"captions of {number} objects do not count them; use two or three")
    (other,) = set(_SEVERAL) - {number}
    counted = re.compile(rf"\b{number} objects\b", re.IGNORECASE)
    while not (found := counted.search(caption := short_caption(scene, rng))):
        pass
    at = found.start()
    word = other.capitalize() if caption[at].isupper() else other
    return f"{caption[:at]}{word}{caption[at + len(number) :]}"


def alter(scene: Scene, kind: str, rng: np.random.Generator) -> Scene:
    """A scene that differs from `scene` in one fact (one of `ALTERATIONS`).

    `left-out object` removes an object, `invented object` adds one, `place` moves one to another
    column or row, and `relation` swaps the places of two. The others change one word.

    Raises:
        WorldError: the kind is unknown, or impossible in this scene (`left-out object` and
            `relation` need two objects).
    """
    if kind == "floor":
        free = [f for f in FLOORS if f != scene.floor and all(o.color != f for o in scene.objects)]
        return replace(scene, floor=_one_of(free, rng))
    if kind == "light":
        return replace(scene, light=_other(LIGHTS, scene.light, rng))
    if kind == "invented object":
        return replace(scene, objects=(*scene.objects, _invented(scene, rng)))
    if kind == "relation":
        return _with_two_swapped(scene, rng)
    if kind == "place":
        return _with_one_moved(scene, rng)
    index = int(rng.integers(len(scene.objects)))
    obj, rest = scene.objects[index], scene.objects[:index] + scene.objects[index + 1 :]
    if kind == "left-out object":
        if not rest:
            raise WorldError("a scene of one object has none to leave out; use a larger scene")
        return replace(scene, objects=rest)
    if kind == "size":
        altered = replace(obj, size=_other(SIZES, obj.size, rng))
    elif kind == "material":
        altered = replace(obj, material=_other(MATERIALS, obj.material, rng))
    elif kind in ("color", "shape"):
        altered = _recast(scene, obj, kind, rng)
    else:
        known = ", ".join(ALTERATIONS)
        raise WorldError(f"unknown kind of error {kind!r}; the kinds are {known}")
    return replace(scene, objects=(*scene.objects[:index], altered, *scene.objects[index + 1 :]))


def _one_of(words: list[str], rng: np.random.Generator) -> str:
    return words[int(rng.integers(len(words)))]


def _other(words: tuple[str, ...], word: str, rng: np.random.Generator) -> str:
    return _one_of([other for other in words if other != word], rng)


def _recast(scene: Scene, obj: SceneObject, kind: str, rng: np.random.Generator) -> SceneObject:
    """The object with another colour or shape; no two objects share both."""
    taken = {(other.shape, other.color) for other in scene.objects}
    if kind == "color":
        colors = [c for c in COLORS if (obj.shape, c) not in taken and c != scene.floor]
        return replace(obj, color=_one_of(colors, rng))
    shapes = [s for s in SHAPES if (s, obj.color) not in taken]
    if not shapes:
        raise WorldError(f"every shape is there in {obj.color}; plant another kind of error")
    return replace(obj, shape=_one_of(shapes, rng))


def _with_one_moved(scene: Scene, rng: np.random.Generator) -> Scene:
    shifts = (-_CLEAR_PLACE, 0, _CLEAR_PLACE)
    for _ in range(_TRIES):
        index = int(rng.integers(len(scene.objects)))
        obj = scene.objects[index]
        before, after = scene.objects[:index], scene.objects[index + 1 :]
        x, z = round(float(rng.uniform(-1, 1)), 4), round(float(rng.uniform(0, 1)), 4)
        moved = replace(obj, x=x, z=z)
        new_column = column_of(x) not in {column_of(obj.x + shift) for shift in shifts}
        new_row = row_of(z) not in {row_of(obj.z + shift) for shift in shifts}
        if (new_column or new_row) and _is_clear(moved, before + after):
            return replace(scene, objects=(*before, moved, *after))
    raise WorldError("no clear place for any object to move to; use a smaller scene")


def _invented(scene: Scene, rng: np.random.Generator) -> SceneObject:
    taken = {(obj.shape, obj.color) for obj in scene.objects}
    for _ in range(_TRIES):
        invented = SceneObject(
            shape=_one_of(list(SHAPES), rng),
            color=_one_of([color for color in COLORS if color != scene.floor], rng),
            size=_one_of(list(SIZES), rng),
            material=_one_of(list(MATERIALS), rng),
            x=round(float(rng.uniform(-1, 1)), 4),
            z=round(float(rng.uniform(0, 1)), 4),
            rotation=round(float(rng.uniform(0, np.pi / 2)), 4),
        )
        if (invented.shape, invented.color) not in taken and _is_clear(invented, scene.objects):
            return invented
    raise WorldError("no clear place for one more object; use a smaller scene")


def _is_clear(obj: SceneObject, others: tuple[SceneObject, ...]) -> bool:
    x, z = obj.floor_position
    for other in others:
        other_x, other_z = floor_position(other.x, other.z)
        if np.hypot(x - other_x, z - other_z) < obj.radius + other.radius + _GAP:
            return False
    return True


def _with_two_swapped(scene: Scene, rng: np.random.Generator) -> Scene:
    objects = list(scene.objects)
    pairs = [
        (i, j)
        for i, a in enumerate(objects)
        for j, b in enumerate(objects[:i])
        if abs(a.x - b.x) > _CLEAR_PAIR or abs(a.z - b.z) > _CLEAR_PAIR
    ]
    if not pairs:
        raise WorldError("no two objects whose places could be swapped; use a larger scene")
    i, j = pairs[int(rng.integers(len(pairs)))]
    a, b = objects[i], objects[j]
    objects[i], objects[j] = replace(a, x=b.x, z=b.z), replace(b, x=a.x, z=a.z)
    return replace(scene, objects=tuple(objects))
