"""How well pictures show the scenes they should show, by the inspector.

True renders, drawn pictures and controls are all measured alike: pictures -> inspections -> scores
of every scene -> figures.

Shapes: n scenes, F features of the inspector.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from vlv.evaluation.metrics.statistics import (
    Array,
    Bootstrap,
    Figure,
    Ratio,
    by_scene,
    frechet_distance,
    mean_of,
)
from vlv.world.inspector import Detected, Inspection, Inspector, to_pixels
from vlv.world.scene import SHAPES, Scene, SceneObject, floor_position

ImageArray = NDArray[np.uint8]  # (n, 64, 64, 3)
_BATCH = 64
# Farther than any two places on the floor, so that objects that differ are never matched.
_NEVER = 1e6
Look = Literal["shape", "color"]
Pair = tuple[Detected, SceneObject]


@dataclass(frozen=True)
class PictureScores:
    """Scores of every scene by figure, and the pictures' features (n, F)."""

    ratios: dict[str, Ratio]
    features: Array

    def __len__(self) -> int:
        return len(self.features)

    def first(self, count: int) -> "PictureScores":
        """The scores of the first `count` scenes."""
        ratios = {name: ratio.first(count) for name, ratio in self.ratios.items()}
        return PictureScores(ratios, self.features[:count])


class PictureJudge:
    """Scores pictures of given scenes, in the scenes' order; `renders` are the true pictures."""

    def __init__(
        self, inspector: Inspector, scenes: Sequence[Scene], renders: ImageArray, seed: int
    ) -> None:
        self._inspector = inspector
        self._scenes = scenes
        self._renders = renders
        self._seed = seed
        self._true_features = inspector_features(inspector, renders)

    def score(self, pictures: ImageArray) -> PictureScores:
        """Scores of pictures of the first len(pictures) scenes."""
        count = len(pictures)
        seen, features = self._inspector.inspect_with_features(pictures)
        ratios = scene_ratios(seen, self._scenes[:count])
        gap = pictures.astype(np.float64) - self._renders[:count]
        error = np.abs(gap).mean(axis=(1, 2, 3))
        squared = np.square(gap).mean(axis=(1, 2, 3))
        ratios["pixel_error"] = mean_of(error)
        # Half a level of one pixel value stands for "no difference", where the PSNR is infinite.
        floor = 0.25 / pictures[0].size
        ratios["psnr"] = mean_of(10 * np.log10(255.0**2 / squared.clip(min=floor)))
        return PictureScores(ratios, features.numpy().astype(np.float64))

    def figures(self, scores: PictureScores) -> dict[str, Figure]:
        """Figures with intervals, and `frechet` (without one) to the scenes' true renders.

        f1, precision, recall: objects with the right shape and colour, over all scenes together.
        f1_any_shape, f1_any_color: f1 without one of the two conditions. sphere_accuracy,
        cube_accuracy, cylinder_accuracy, cone_accuracy: the right shape, of such objects of the
        scene as are found by their colour.
        centre_error: world units on the floor, of the objects found. size_accuracy,
        material_accuracy: of the objects found. rotation_error: degrees, of the cubes found.
        floor_accuracy, light_accuracy, count_accuracy: of pictures. pixel_error: mean absolute
        difference to the true render, of 255. psnr: dB, mean over pictures.
        """
        figures = Bootstrap(len(scores), self._seed).figures(scores.ratios)
        distance = frechet_distance(scores.features, self._true_features[: len(scores)])
        figures["frechet"] = Figure(distance)
        return figures

    def figure(self, name: str, scores: PictureScores) -> Figure:
        """One figure with its interval."""
        return Bootstrap(len(scores), self._seed).figure(scores.ratios[name])

    def difference(self, name: str, a: PictureScores, b: PictureScores) -> Figure:
        """Figure `name` of `a` minus that of `b`, paired by scene."""
        return Bootstrap(len(a), self._seed).difference(a.ratios[name], b.ratios[name])


def scene_ratios(seen: Sequence[Inspection], scenes: Sequence[Scene]) -> dict[str, Ratio]:
    """What the inspector found against the truth, scene by scene."""
    both = list(zip(seen, scenes, strict=True))
    pairs = [match_objects(one.objects, scene.objects) for one, scene in both]
    any_shape, any_color = (
        [match_objects(one.objects, scene.objects, alike={look}) for one, scene in both]
        for look in ("color", "shape")
    )
    cubes = [[pair for pair in matched if pair[1].shape == "cube"] for matched in pairs]
    found, detected, there = (
        by_scene(len(objects) for objects in each)
        for each in (pairs, [one.objects for one in seen], [scene.objects for scene in scenes])
    )

    def f1(matched: Sequence[Sequence[Pair]]) -> Ratio:
        return Ratio(2 * by_scene(len(objects) for objects in matched), detected + there)

    return {
        "f1": f1(pairs),
        "f1_any_shape": f1(any_shape),
        "f1_any_color": f1(any_color),
        **{f"{shape}_accuracy": _shape_accuracy(any_shape, shape) for shape in SHAPES},
        "precision": Ratio(found, detected),
        "recall": Ratio(found, there),
        "centre_error": Ratio(by_scene(sum(centre_distance(*p) for p in m) for m in pairs), found),
        "size_accuracy": Ratio(by_scene(sum(a.size == b.size for a, b in m) for m in pairs), found),
        "material_accuracy": Ratio(
            by_scene(sum(a.material == b.material for a, b in m) for m in pairs), found
        ),
        "rotation_error": Ratio(
            by_scene(sum(rotation_distance(a.rotation, b.rotation) for a, b in m) for m in cubes),
            by_scene(len(matched) for matched in cubes),
        ),
        "floor_accuracy": mean_of(one.floor == scene.floor for one, scene in both),
        "light_accuracy": mean_of(one.light == scene.light for one, scene in both),
        "count_accuracy": mean_of(detected == there),
    }


def _shape_accuracy(pairs: Sequence[Sequence[Pair]], shape: str) -> Ratio:
    """Of the objects of one shape that were found by colour: how many have that shape."""
    seen = [[a.shape == shape for a, b in matched if b.shape == shape] for matched in pairs]
    return Ratio(by_scene(sum(right) for right in seen), by_scene(len(right) for right in seen))


def inspector_features(inspector: Inspector, pictures: ImageArray) -> Array:
    """(n, F) features of the inspector."""
    device = next(inspector.parameters()).device
    with torch.inference_mode():
        parts = [
            inspector.features(to_pixels(torch.from_numpy(pictures[at : at + _BATCH]).to(device)))
            for at in range(0, len(pictures), _BATCH)
        ]
    return torch.cat(parts).cpu().numpy().astype(np.float64)


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
