"""What is in a scene: facts, how scenes are drawn at random, and the held-out splits.

Knows no pixels (render.py) and no English sentences (language.py).

Coordinates. `z` is depth on the floor, 0 (nearest) to 1 (farthest). `x` runs from -1 (as
far left as a large object can stand inside the picture) to 1 (right) *at the object's own depth*,
so that the words left and right mean the same at every depth.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vlv.errors import WorldError

SHAPES = ("sphere", "cube", "cylinder", "cone")
COLORS = ("red", "green", "blue", "yellow", "purple", "cyan", "orange", "white")
SIZES = ("small", "large")
MATERIALS = ("matte", "shiny")
FLOORS = ("gray", "brown", "black", "green")
LIGHTS = ("left", "right")
SPLITS = ("train", "test", "unseen-pairs", "unseen-counts")

# Kept out of every scene of `train` and `test`. Each shape and each colour still occurs in
# training with other partners.
HELD_OUT_PAIRS = frozenset(
    {("sphere", "orange"), ("cube", "purple"), ("cylinder", "cyan"), ("cone", "white")}
)

# World units: chosen so that the small size spans at least 12 pixels and the large at least 20
# at every depth; what is smaller loses its colour in a factor-8 VAE.
RADIUS = {"small": 0.68, "large": 1.12}
DEPTH = 4.0
HALF_WIDTH_NEAR, HALF_WIDTH_FAR = 1.45, 1.9
_GAP = 0.12
_TRIES_PER_LOOK = 60


@dataclass(frozen=True)
class SceneObject:
    """One object: four words, a place (x in [-1, 1], z in [0, 1]) and a rotation in radians."""

    shape: str
    color: str
    size: str
    material: str
    x: float
    z: float
    rotation: float

    @property
    def radius(self) -> float:
        """Half of the object's width and height, in world units."""
        return RADIUS[self.size]

    @property
    def floor_position(self) -> tuple[float, float]:
        """(x, z) of the object's foot in world units."""
        return floor_position(self.x, self.z)


@dataclass(frozen=True)
class Scene:
    """A floor, the side the light comes from, and one to four objects."""

    floor: str
    light: str
    objects: tuple[SceneObject, ...]

    def to_dict(self) -> dict[str, Any]:
        """The `scene` part of a record in `scenes.jsonl`, without pixel boxes."""
        return {
            "floor": self.floor,
            "light": self.light,
            "objects": [asdict(obj) for obj in self.objects],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Scene":
        """The inverse of `to_dict`; pixel boxes are ignored, other unknown keys are errors."""
        try:
            objects = tuple(
                SceneObject(**{k: v for k, v in obj.items() if k != "pixel_box"})
                for obj in data["objects"]
            )
            return cls(floor=data["floor"], light=data["light"], objects=objects)
        except (KeyError, TypeError) as error:
            raise WorldError(f"this is not the record of a scene ({error}): {data!r}") from error


def floor_position(x: float, z: float) -> tuple[float, float]:
    """World coordinates of the picture-relative place (x, z)."""
    half_width = HALF_WIDTH_NEAR + (HALF_WIDTH_FAR - HALF_WIDTH_NEAR) * z
    return x * half_width, DEPTH * z


def sample_scene(seed: int, split: str = "train") -> Scene:
    """The scene that belongs to (`seed`, `split`): always the same one.

    `test` has the distribution of `train` and other scenes; `unseen-pairs` holds at least one
    shape-colour pair of `HELD_OUT_PAIRS`; `unseen-counts` holds four objects.

    Raises:
        WorldError: unknown split.
    """
    if split not in SPLITS:
        raise WorldError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")
    rng = np.random.default_rng([SPLITS.index(split), seed])
    count = 4 if split == "unseen-counts" else int(rng.integers(1, 4))
    floor, light = str(rng.choice(FLOORS)), str(rng.choice(LIGHTS))
    places = None
    while places is None:
        looks = _sample_looks(rng, count, split, floor)
        places = _sample_places(rng, looks)
    objects = tuple(
        SceneObject(*look, x=round(x, 4), z=round(z, 4), rotation=_sample_rotation(rng))
        for look, (x, z) in zip(looks, places, strict=True)
    )
    return Scene(floor=floor, light=light, objects=objects)


Look = tuple[str, str, str, str]


def _sample_looks(rng: np.random.Generator, count: int, split: str, floor: str) -> list[Look]:
    """(shape, colour, size, material) of each object; no two share shape and colour."""
    looks: list[Look] = []
    pairs: set[tuple[str, str]] = set()
    while len(looks) < count:
        if split == "unseen-pairs" and not looks:
            shape, color = sorted(HELD_OUT_PAIRS)[int(rng.integers(len(HELD_OUT_PAIRS)))]
        else:
            shape, color = str(rng.choice(SHAPES)), str(rng.choice(COLORS))
            if (shape, color) in HELD_OUT_PAIRS and split != "unseen-pairs":
                continue
        # A green object on the green floor would be a question of luck, not of sight.
        if color == floor or (shape, color) in pairs:
            continue
        pairs.add((shape, color))
        looks.append((shape, color, str(rng.choice(SIZES)), str(rng.choice(MATERIALS))))
    return looks


def _sample_places(rng: np.random.Generator, looks: list[Look]) -> list[tuple[float, float]] | None:
    """Places where no object hides another, or None if none was found (too much to fit)."""
    for _ in range(_TRIES_PER_LOOK):
        drawn = rng.uniform((-1.0, 0.0), (1.0, 1.0), size=(len(looks), 2))
        places = [(float(x), float(z)) for x, z in drawn]
        if _places_are_clear(looks, places):
            return places
    return None


def _sample_rotation(rng: np.random.Generator) -> float:
    # A cube looks the same after a quarter turn; one quarter covers every look.
    return round(float(rng.uniform(0, math.pi / 2)), 4)


def _places_are_clear(looks: list[Look], places: list[tuple[float, float]]) -> bool:
    """No two objects touch, and none hides more than about a third of another.

    The camera looks down on the floor, so an object hides another only if the two stand close
    both sideways and in depth.
    """
    feet = [floor_position(x, z) for x, z in places]
    radii = [RADIUS[size] for _, _, size, _ in looks]
    for i in range(len(looks)):
        for j in range(i):
            dx, dz = feet[i][0] - feet[j][0], feet[i][1] - feet[j][1]
            reach = radii[i] + radii[j]
            if math.hypot(dx, dz) < reach + _GAP:
                return False
            if abs(dx) < 0.8 * reach and abs(dz) < 1.3 * reach:
                return False
    return True
