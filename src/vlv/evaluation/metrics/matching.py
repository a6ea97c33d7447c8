"""Which detected object is which object of the scene. Knows no pictures and no averages."""

import math
from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

from vlv.world.inspector import Detected
from vlv.world.scene import SceneObject, floor_position

# Farther than any two places on the floor, so that no pair of different looks is ever worth it.
_NEVER = 1e6


Look = Literal["shape", "color"]
Pair = tuple[Detected, SceneObject]


def match_objects(
    detected: Sequence[Detected],
    objects: Sequence[SceneObject],
    *,
    alike: Collection[Look] = ("shape", "color"),
) -> list[Pair]:
    """Pairs of a detected and a true object of the same shape and colour, one to one.

    As many pairs as possible; among those, the ones with the least distance in total. `alike`
    is what the two must have in common.
    """
    if not detected or not objects:
        return []
    cost = np.full((len(detected), len(objects)), _NEVER)
    for row, seen in enumerate(detected):
        for column, obj in enumerate(objects):
            if all(getattr(seen, look) == getattr(obj, look) for look in alike):
                cost[row, column] = centre_distance(seen, obj)
    rows, columns = linear_sum_assignment(cost)
    return [
        (detected[row], objects[column])
        for row, column in zip(rows, columns, strict=True)
        if cost[row, column] < _NEVER
    ]


def centre_distance(seen: Detected, obj: SceneObject) -> float:
    """Distance of the two on the floor, in world units (a small object's radius is 0.68)."""
    return math.dist(floor_position(seen.x, seen.z), obj.floor_position)


def rotation_distance(seen: float, true: float) -> float:
    """Degrees from 0 to 45 between two rotations of a cube, which repeats every quarter turn."""
    turned = math.degrees(seen - true) % 90
    return min(turned, 90 - turned)
