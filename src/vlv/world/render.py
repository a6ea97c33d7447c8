"""Scene -> pixels: a small ray tracer with shading, shadows and highlights.

Knows scenes, not words. Everything is a closed formula over a grid of rays, in float64, so the
same scene gives the same bytes on every run.

Shapes: R rays (RENDER_SIZE**2 of them, or the part that can meet an object); points and
directions are (R, 3), x to the right, y up, z away from the camera.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlv.world import scene as scenes
from vlv.world.scene import Scene, SceneObject

IMAGE_SIZE = 64
_SUPERSAMPLING = 2
RENDER_SIZE = IMAGE_SIZE * _SUPERSAMPLING

Array = NDArray[np.float64]

# A long lens looking down at about 50 degrees: sizes change little with depth, and an object
# hides little of the floor behind it.
_EYE = np.array([0.0, 11.6, -7.3])
_TARGET = np.array([0.0, 0.65, 1.9])
_FOCAL = 4.65
_INFINITY = 1e9
_EPSILON = 1e-6

_OBJECT_RGB = {
    "red": (0.86, 0.09, 0.10),
    "green": (0.10, 0.66, 0.17),
    "blue": (0.10, 0.22, 0.88),
    "yellow": (0.97, 0.86, 0.10),
    "purple": (0.52, 0.12, 0.70),
    "cyan": (0.12, 0.80, 0.86),
    "orange": (0.98, 0.48, 0.05),
    "white": (0.97, 0.97, 0.97),
}
_FLOOR_RGB = {
    "gray": (0.52, 0.52, 0.54),
    "brown": (0.46, 0.29, 0.16),
    "black": (0.14, 0.14, 0.15),
    "green": (0.22, 0.40, 0.20),
}
_AMBIENT = 0.34
_SHADOW = 0.30
_LIGHT = {"left": np.array([-0.66, 0.70, -0.28]), "right": np.array([0.66, 0.70, -0.28])}


@dataclass(frozen=True)
class _Hit:
    """The nearest surface along each ray: distance (R,), unit normal (R, 3)."""

    distance: Array
    normal: Array


def render(scene: Scene) -> NDArray[np.uint8]:
    """The picture of `scene`: (64, 64, 3) uint8 RGB, the same bytes for the same scene."""
    color = _floor_color(scene)
    depth = _FLOOR_DISTANCE.copy()
    for obj in scene.objects:
        rays = _rays_near(obj)
        hit = _intersect(obj, _EYE, _DIRECTIONS[rays])
        closer = hit.distance < depth[rays]
        rays = rays[closer]
        depth[rays] = hit.distance[closer]
        color[rays] = _shade(scene, obj, rays, hit.distance[closer], hit.normal[closer])
    picture = color.reshape(IMAGE_SIZE, _SUPERSAMPLING, IMAGE_SIZE, _SUPERSAMPLING, 3)
    mean = picture.mean(axis=(1, 3))
    return np.round(np.clip(mean, 0.0, 1.0) * 255.0).astype(np.uint8)


@cache
def renderer_version() -> str:
    """Changes with the code that places and draws scenes; files of pictures are named by it."""
    digest = hashlib.sha256()
    for module in (__file__, scenes.__file__):
        digest.update(Path(module).read_bytes())
    return digest.hexdigest()[:8]


def project(point: Array) -> Array:
    """Pixel coordinates (..., 2) as (column, row) of world points (..., 3)."""
    local = (point - _EYE) @ _CAMERA.T
    plane = _FOCAL * local[..., :2] / local[..., 2:]
    return np.stack(
        [(plane[..., 0] + 1) * IMAGE_SIZE / 2, (1 - plane[..., 1]) * IMAGE_SIZE / 2], axis=-1
    )


def pixel_box(obj: SceneObject) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) in pixels around the whole object, hidden parts included."""
    points = project(_outline(obj))
    low, high = points.min(axis=0), points.max(axis=0)
    return (float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def scene_record(
    scene: Scene, *, seed: int, split: str, caption: str, file_name: str
) -> dict[str, Any]:
    """One line of `scenes.jsonl`: the scene with pixel boxes, its caption and its origin."""
    data = scene.to_dict()
    for entry, obj in zip(data["objects"], scene.objects, strict=True):
        entry["pixel_box"] = [round(value, 1) for value in pixel_box(obj)]
    return {
        "file_name": file_name,
        "seed": seed,
        "split": split,
        "caption": caption,
        "scene": data,
    }


def _camera() -> Array:
    """Rows: the camera's right, up and forward in world coordinates."""
    forward = (_TARGET - _EYE) / np.linalg.norm(_TARGET - _EYE)
    right = np.cross(np.array([0.0, 1.0, 0.0]), forward)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def _ray_directions() -> Array:
    steps = (np.arange(RENDER_SIZE) + 0.5) / RENDER_SIZE * 2 - 1
    column, row = np.meshgrid(steps, -steps)
    local = np.stack([column, row, np.full_like(column, _FOCAL)], axis=-1).reshape(-1, 3)
    directions = local @ _CAMERA
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


_CAMERA = _camera()
_DIRECTIONS = _ray_directions()
_COLUMNS = np.tile(np.arange(RENDER_SIZE), RENDER_SIZE)
_ROWS = np.repeat(np.arange(RENDER_SIZE), RENDER_SIZE)
_FLOOR_DISTANCE = -_EYE[1] / _DIRECTIONS[:, 1]
_FLOOR_POINTS = _EYE + _FLOOR_DISTANCE[:, None] * _DIRECTIONS
_SKY_RGB = np.array([0.74, 0.80, 0.87])


def _floor_color(scene: Scene) -> Array:
    """(R, 3): the empty scene with the objects' shadows on its floor."""
    # The light is brighter on its own side, so that even an empty floor tells where it is.
    side = -1.0 if scene.light == "left" else 1.0
    brightness = 0.92 + 0.24 * np.clip(side * _FLOOR_POINTS[:, 0] / 3.0, -1, 1)
    brightness *= np.where(_in_shadow(scene, _FLOOR_POINTS, skip=None), _SHADOW + 0.15, 1.0)
    return np.asarray(np.array(_FLOOR_RGB[scene.floor]) * brightness[:, None])


def _shade(scene: Scene, obj: SceneObject, rays: Array, distance: Array, normal: Array) -> Array:
    """(R, 3) colour of an object's surface: ambient and diffuse light, shadow, highlight."""
    light = _light(scene)
    direction = _DIRECTIONS[rays]
    point = _EYE + distance[:, None] * direction
    facing = np.clip(normal @ light, 0, None)
    lit = ~_in_shadow(scene, point + 1e-4 * normal, skip=obj)
    brightness = _AMBIENT + (1 - _AMBIENT) * facing * np.where(lit, 1.0, _SHADOW)
    color = np.array(_OBJECT_RGB[obj.color]) * brightness[:, None]
    if obj.material == "shiny":
        half = light - direction
        half /= np.linalg.norm(half, axis=1, keepdims=True)
        highlight = np.clip(np.einsum("ij,ij->i", normal, half), 0, None) ** 24
        # The sky mirrored in the upper side sets shiny apart even where no highlight falls.
        mirror = 0.22 * np.clip(normal[:, 1], 0, 1) ** 2
        color = color * (1 - mirror[:, None]) + _SKY_RGB * mirror[:, None]
        color = color + (0.85 * highlight * np.where(lit, 1.0, 0.0))[:, None]
    return color


def _light(scene: Scene) -> Array:
    """Unit vector towards the light."""
    light = _LIGHT[scene.light]
    return np.asarray(light / np.linalg.norm(light))


def _in_shadow(scene: Scene, points: Array, skip: SceneObject | None) -> NDArray[np.bool_]:
    """(R,) whether an object other than `skip` stands between each point and the light."""
    light = _light(scene)
    shadow = np.zeros(len(points), dtype=bool)
    for obj in scene.objects:
        if obj is skip:
            continue
        # Only points near the line from the object's middle away from the light can be hidden.
        x, z = obj.floor_position
        offset = np.array([x, obj.radius, z]) - points
        along = offset @ light
        aside = np.einsum("ij,ij->i", offset, offset) - along**2
        near = np.flatnonzero((along > -obj.radius) & (aside < 2.2 * obj.radius**2))
        hit = _intersect(obj, points[near], np.broadcast_to(light, (len(near), 3)))
        shadow[near] |= hit.distance < _INFINITY
    return shadow


def _outline(obj: SceneObject) -> Array:
    """Points on the object's surface whose projections span its pixel box."""
    radius, (x, z) = obj.radius, obj.floor_position
    angle = np.linspace(0, 2 * math.pi, 33)
    ring = np.stack([np.cos(angle), np.zeros_like(angle), np.sin(angle)], axis=-1) * radius
    foot = np.array([x, 0.0, z])
    up = np.array([0.0, 2 * radius, 0.0])
    if obj.shape == "sphere":
        height = np.linspace(-1, 1, 17)
        width = np.sqrt(1 - height**2)
        shell = ring[None] * width[:, None, None] + height[:, None, None] * up / 2
        return (shell + foot + up / 2).reshape(-1, 3)
    if obj.shape == "cube":
        corner = obj.rotation + np.array([0.25, 0.75, 1.25, 1.75]) * math.pi
        base = np.stack([np.cos(corner), np.zeros(4), np.sin(corner)], axis=-1)
        base *= _cube_half(obj) * math.sqrt(2)
        return np.concatenate([base, base + up * _cube_half(obj) / radius]) + foot
    if obj.shape == "cone":
        return np.concatenate([ring, up[None]]) + foot
    return np.concatenate([ring, ring + up]) + foot


def _cube_half(obj: SceneObject) -> float:
    # A cube as wide as the sphere would look bigger than it; this evens out the areas.
    return 0.9 * obj.radius


def _rays_near(obj: SceneObject) -> NDArray[np.int64]:
    """Indices of the rays that pass through the object's pixel box."""
    x0, y0, x1, y1 = (value * _SUPERSAMPLING for value in pixel_box(obj))
    inside = (x0 - 2 <= _COLUMNS) & (x1 + 2 >= _COLUMNS) & (y0 - 2 <= _ROWS) & (y1 + 2 >= _ROWS)
    return np.flatnonzero(inside)


def _intersect(obj: SceneObject, origin: Array, direction: Array) -> _Hit:
    """Nearest hit of each ray with the object; distance `_INFINITY` where it misses."""
    x, z = obj.floor_position
    local = np.broadcast_to(origin - np.array([x, 0.0, z]), direction.shape)
    return _INTERSECTIONS[obj.shape](obj, local, direction)


def _roots(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """Both solutions of a t^2 + 2 b t + c = 0, `_INFINITY` where there is none."""
    discriminant = b * b - a * c
    root = np.sqrt(np.maximum(discriminant, 0))
    safe = np.where(np.abs(a) < _EPSILON, _EPSILON, a)
    first, second = (-b - root) / safe, (-b + root) / safe
    none = discriminant < 0
    near, far = np.minimum(first, second), np.maximum(first, second)
    return np.where(none, _INFINITY, near), np.where(none, _INFINITY, far)


def _hit_sphere(obj: SceneObject, origin: Array, direction: Array) -> _Hit:
    offset = origin - np.array([0.0, obj.radius, 0.0])
    b = np.einsum("ij,ij->i", offset, direction)
    c = np.einsum("ij,ij->i", offset, offset) - obj.radius**2
    near, _ = _roots(np.ones_like(b), b, c)
    distance = np.where(near > _EPSILON, near, _INFINITY)
    normal = (offset + np.minimum(distance, 1e3)[:, None] * direction) / obj.radius
    return _Hit(distance, normal)


def _hit_cube(obj: SceneObject, origin: Array, direction: Array) -> _Hit:
    half = _cube_half(obj)
    cos, sin = math.cos(obj.rotation), math.sin(obj.rotation)
    turn = np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])
    start = origin @ turn.T - np.array([0.0, half, 0.0])
    heading = direction @ turn.T
    heading = np.where(np.abs(heading) < _EPSILON, _EPSILON, heading)
    one, two = (-half - start) / heading, (half - start) / heading
    enter, leave = np.minimum(one, two), np.maximum(one, two)
    near, axis = enter.max(axis=1), enter.argmax(axis=1)
    hit = (near <= leave.min(axis=1)) & (near > _EPSILON)
    normal = np.zeros_like(start)
    rows = np.arange(len(axis))
    normal[rows, axis] = -np.sign(heading[rows, axis])
    return _Hit(np.where(hit, near, _INFINITY), normal @ turn)


def _hit_cylinder(obj: SceneObject, origin: Array, direction: Array) -> _Hit:
    radius, height = obj.radius, 2 * obj.radius
    flat, heading = origin[:, ::2], direction[:, ::2]
    a = np.einsum("ij,ij->i", heading, heading)
    b = np.einsum("ij,ij->i", flat, heading)
    c = np.einsum("ij,ij->i", flat, flat) - radius**2
    side, _ = _roots(a, b, c)
    level = origin[:, 1] + side * direction[:, 1]
    side = np.where((side > _EPSILON) & (level >= 0) & (level <= height), side, _INFINITY)
    top = _plane(origin, direction, height)
    place = flat + np.minimum(top, 1e3)[:, None] * heading
    top = np.where(np.einsum("ij,ij->i", place, place) <= radius**2, top, _INFINITY)
    distance = np.minimum(side, top)
    point = flat + np.minimum(distance, 1e3)[:, None] * heading
    normal = np.stack([point[:, 0], np.zeros(len(point)), point[:, 1]], axis=-1) / radius
    normal[top < side] = (0.0, 1.0, 0.0)
    return _Hit(distance, normal)


def _hit_cone(obj: SceneObject, origin: Array, direction: Array) -> _Hit:
    radius, height = obj.radius, 2 * obj.radius
    slope = radius / height
    # Height measured down from the tip turns the cone into x^2 + z^2 = (slope * h)^2.
    down, falling = height - origin[:, 1], -direction[:, 1]
    flat, heading = origin[:, ::2], direction[:, ::2]
    a = np.einsum("ij,ij->i", heading, heading) - (slope * falling) ** 2
    b = np.einsum("ij,ij->i", flat, heading) - slope**2 * down * falling
    c = np.einsum("ij,ij->i", flat, flat) - (slope * down) ** 2
    distance = np.full(len(a), _INFINITY)
    for root in reversed(_roots(a, b, c)):
        level = down + root * falling
        good = (root > _EPSILON) & (level >= 0) & (level <= height)
        distance = np.where(good, root, distance)
    point = origin + np.minimum(distance, 1e3)[:, None] * direction
    normal = np.stack([point[:, 0], slope * (height - point[:, 1]), point[:, 2]], axis=-1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), _EPSILON)
    return _Hit(distance, normal)


def _plane(origin: Array, direction: Array, height: float) -> Array:
    """Distance to the horizontal plane at `height`, `_INFINITY` behind the ray."""
    falling = np.where(np.abs(direction[:, 1]) < _EPSILON, -_EPSILON, direction[:, 1])
    distance = (height - origin[:, 1]) / falling
    return np.where(distance > _EPSILON, distance, _INFINITY)


_INTERSECTIONS = {
    "sphere": _hit_sphere,
    "cube": _hit_cube,
    "cylinder": _hit_cylinder,
    "cone": _hit_cone,
}
