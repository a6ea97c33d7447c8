"""3D boxes of objects, matched between two pictures, and how far matched ones are apart (Table 6).

Knows names and numbers; who saw the boxes is not its business.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

_WORD = re.compile(r"[^\W_]+")
# Of a pair whose names share no word, which is no match at any distance.
_FORBIDDEN = 10.0


@dataclass(frozen=True)
class Box3D:
    """An object: its centre in metres from the camera (right, down, forward), its size in metres
    (width, height, depth), and its angles in degrees (roll, pitch, yaw).
    """

    name: str
    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    angles: tuple[float, float, float]


@dataclass(frozen=True)
class Difference:
    """Of two boxes, each the mean over three axes: angle in radians, centre and scale in metres."""

    angle: float
    centre: float
    scale: float


def match(first: Sequence[Box3D], second: Sequence[Box3D]) -> list[tuple[Box3D, Box3D, Difference]]:
    """Pairs of boxes that are of one object: the assignment with the smallest sum of costs.

    A cost is the share of words that only one of the two names has, plus d / (1 + d) of the
    distance d of the centres in metres. Boxes whose names share no word are never a pair.
    """
    if not first or not second:
        return []
    costs = np.array([[_cost(a, b) for b in second] for a in first])
    rows, columns = linear_sum_assignment(costs)
    return [
        (first[at], second[to], difference(first[at], second[to]))
        for at, to in zip(rows.tolist(), columns.tolist(), strict=True)
        if costs[at, to] < _FORBIDDEN
    ]


def difference(first: Box3D, second: Box3D) -> Difference:
    """Mean absolute differences. A box that is turned by 180 degrees is the same box."""
    turns = (abs(a - b) % 180 for a, b in zip(first.angles, second.angles, strict=True))
    return Difference(
        math.radians(sum(min(turn, 180 - turn) for turn in turns) / 3),
        _mean_gap(first.centre, second.centre),
        _mean_gap(first.size, second.size),
    )


def _cost(first: Box3D, second: Box3D) -> float:
    ours, theirs = _words(first.name), _words(second.name)
    shared = len(ours & theirs) / max(1, len(ours | theirs))
    if not shared:
        return _FORBIDDEN
    distance = math.dist(first.centre, second.centre)
    return 1 - shared + distance / (1 + distance)


def _words(name: str) -> set[str]:
    """Without case, and without the ending of plurals."""
    return {word.removesuffix("s") or word for word in _WORD.findall(name.casefold())}


def _mean_gap(first: Sequence[float], second: Sequence[float]) -> float:
    return sum(abs(a - b) for a, b in zip(first, second, strict=True)) / len(first)
