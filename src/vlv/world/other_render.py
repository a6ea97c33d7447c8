"""A second renderer of the same scenes, whose pictures no training has seen: `vlv eval renderer`.

It walks rays through distances to surfaces (sphere tracing), where `render.py` solves closed
formulas, and has colours and shading of its own. Options change the camera, soften the light, put
a texture on the floor, add noise, and compress the picture. What a caption says of a scene stays
true: left and right, front and back, large and small are those of the scene, and every object is
inside the picture.

Shapes: R rays; points and directions are (R, 3), x to the right, y up, z away from the camera.
"""

import io
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlv.world.render import IMAGE_SIZE
from vlv.world.scene import Scene, SceneObject

Array = NDArray[np.float64]
Vector = tuple[float, float, float]

_SUPERSAMPLING = 2
_SIZE = IMAGE_SIZE * _SUPERSAMPLING
_STEPS, _SHADOW_STEPS = 48, 24
_NEAR, _FAR = 2e-3, 1e3
# Steps from a surface at which its surroundings are asked how much light they keep away.
_OCCLUSION = (0.1, 0.3, 0.6)
# The larger, the sharper the edge of a shadow.
_SHARP, _SOFT = 64.0, 3.5

_OBJECT_RGB = {
    "red": (0.80, 0.13, 0.14),
    "green": (0.14, 0.60, 0.22),
    "blue": (0.14, 0.26, 0.82),
    "yellow": (0.92, 0.82, 0.16),
    "purple": (0.48, 0.16, 0.66),
    "cyan": (0.18, 0.74, 0.80),
    "orange": (0.93, 0.46, 0.10),
    "white": (0.93, 0.93, 0.92),
}
_FLOOR_RGB = {
    "gray": (0.50, 0.50, 0.50),
    "brown": (0.44, 0.30, 0.19),
    "black": (0.15, 0.15, 0.15),
    "green": (0.22, 0.38, 0.22),
}
_LIGHT = {"left": (-0.62, 0.74, -0.26), "right": (0.62, 0.74, -0.26)}


@dataclass(frozen=True)
class Camera:
    """Where it stands, what it looks at, and its focal length in halves of the picture's width."""

    eye: Vector = (0.0, 11.6, -7.3)
    target: Vector = (0.0, 0.65, 1.9)
    focal: float = 4.65

    @property
    def axes(self) -> Array:
        """Rows: right, up and forward in world coordinates."""
        forward = np.subtract(self.target, self.eye)
        forward = forward / np.linalg.norm(forward)
        right = np.cross((0.0, 1.0, 0.0), forward)
        right = right / np.linalg.norm(right)
        return np.stack([right, np.cross(forward, right), forward])

    def rays(self) -> Array:
        """Unit directions (R, 3), row by row from the top left."""
        steps = (np.arange(_SIZE) + 0.5) / _SIZE * 2 - 1
        column, row = np.meshgrid(steps, -steps)
        local = np.stack([column, row, np.full_like(column, self.focal)], axis=-1).reshape(-1, 3)
        directions = local @ self.axes
        return np.asarray(directions / np.linalg.norm(directions, axis=1, keepdims=True))


@dataclass(frozen=True)
class RenderStyle:
    """How a scene is drawn.

    soft_light: shadows with wide edges, and more light from all sides. texture: the contrast of the
    floor's pattern, 0 for none. noise: the standard deviation of a pixel's noise, in levels of 255.
    jpeg_quality: 1 to 95; None draws no artefacts.
    """

    camera: Camera = field(default_factory=Camera)
    soft_light: bool = False
    texture: float = 0.0
    noise: float = 0.0
    jpeg_quality: int | None = None


# Nearer, lower and with a wider lens: near objects are larger, and sides of objects show.
LOW_CAMERA = Camera(eye=(0.0, 7.6, -7.4), target=(0.0, 0.6, 1.8), focal=3.3)
STYLES = {
    "the other renderer": RenderStyle(),
    "soft light": RenderStyle(soft_light=True),
    "camera": RenderStyle(camera=LOW_CAMERA),
    "texture": RenderStyle(texture=0.2),
    "noise": RenderStyle(noise=8.0),
    "JPEG": RenderStyle(jpeg_quality=40),
    "all": RenderStyle(LOW_CAMERA, soft_light=True, texture=0.2, noise=8.0, jpeg_quality=40),
}


def render_in_style(scene: Scene, style: RenderStyle, seed: int = 0) -> NDArray[np.uint8]:
    """The picture of `scene`, (64, 64, 3) uint8 RGB; the seed is of texture and noise."""
    rng = np.random.default_rng([seed, len(scene.objects)])
    eye, directions = np.array(style.camera.eye), style.camera.rays()
    to_floor = np.where(directions[:, 1] < 0, -eye[1] / np.minimum(directions[:, 1], -1e-9), _FAR)
    distance, which = _march(scene, eye, directions, to_floor)
    points = eye + distance[:, None] * directions
    color = _floor_color(scene, points, style, rng)
    for at, obj in enumerate(scene.objects):
        rays = np.flatnonzero(which == at)
        color[rays] = _surface(scene, obj, points[rays], directions[rays], style)
    shape = (IMAGE_SIZE, _SUPERSAMPLING, IMAGE_SIZE, _SUPERSAMPLING, 3)
    pixels = 255 * np.clip(color, 0, 1).reshape(shape).mean(axis=(1, 3))
    pixels += style.noise * rng.standard_normal(pixels.shape)
    picture = np.round(np.clip(pixels, 0, 255)).astype(np.uint8)
    return picture if style.jpeg_quality is None else _compressed(picture, style.jpeg_quality)


def _compressed(picture: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    written = io.BytesIO()
    Image.fromarray(picture).save(written, "JPEG", quality=quality)
    with Image.open(written) as read:
        return np.asarray(read.convert("RGB"))


def _march(
    scene: Scene, eye: Array, directions: Array, to_floor: Array
) -> tuple[Array, NDArray[np.int64]]:
    """Along each ray the distance to the nearest surface, and the number of its object, -1 for the
    floor.
    """
    distance, which = to_floor.copy(), np.full(len(directions), -1)
    for at, obj in enumerate(scene.objects):
        # Only rays that pass the ball around the object can meet it.
        offset = _middle(obj) - eye
        along = directions @ offset
        reach = _reach(obj) ** 2 - (offset @ offset - along**2)
        rays = np.flatnonzero(reach > 0)
        walked = along[rays] - np.sqrt(reach[rays])
        for _ in range(_STEPS):
            walked += _distance(obj, eye + walked[:, None] * directions[rays])
        left = _distance(obj, eye + walked[:, None] * directions[rays])
        met = (left < _NEAR) & (walked < distance[rays])
        distance[rays[met]], which[rays[met]] = walked[met], at
    return distance, which


def _floor_color(
    scene: Scene, points: Array, style: RenderStyle, rng: np.random.Generator
) -> Array:
    """(R, 3): the floor with its pattern, shadows, and more light on the light's side."""
    side = -1.0 if scene.light == "left" else 1.0
    brightness = 0.92 + (0.14 if style.soft_light else 0.22) * np.clip(
        side * points[:, 0] / 3.0, -1, 1
    )
    brightness *= 0.45 + 0.55 * _lit(scene, points, style)
    brightness *= _openness(scene, points, np.array([0.0, 1.0, 0.0]))
    brightness *= 1 + style.texture * _pattern(points, rng)
    return np.array(_FLOOR_RGB[scene.floor]) * brightness[:, None]


def _pattern(points: Array, rng: np.random.Generator) -> Array:
    """(R,) between -1 and 1: tiles, each of its own tone, with stripes of a wood's grain."""
    turn, width = rng.uniform(0, math.pi), rng.uniform(0.7, 1.4)
    along = points[:, 0] * math.cos(turn) + points[:, 2] * math.sin(turn)
    across = points[:, 2] * math.cos(turn) - points[:, 0] * math.sin(turn)
    tones = rng.uniform(-1, 1, 64)
    row = np.floor(across / width)
    tile = tones[(row * 7 + np.floor(along / (2.5 * width))).astype(np.int64) % len(tones)]
    grain = np.sin(9 * across + 1.5 * np.sin(1.3 * along + tones[0]))
    return np.asarray(0.6 * tile + 0.4 * grain)


def _surface(
    scene: Scene, obj: SceneObject, points: Array, directions: Array, style: RenderStyle
) -> Array:
    """(R, 3) colour of an object's surface."""
    normal, light = _normal(obj, points), np.array(_LIGHT[scene.light])
    above = points + 0.02 * normal
    facing = np.clip(normal @ light, 0, None)
    lit = _lit(scene, above, style)
    ambient = 0.46 if style.soft_light else 0.36
    sky = ambient * (0.75 + 0.25 * normal[:, 1]) * _openness(scene, above, normal)
    base = np.array(_OBJECT_RGB[obj.color])
    color = base * (sky + (1 - ambient) * facing * (0.25 + 0.75 * lit))[:, None]
    if obj.material == "shiny":
        # The sky in the upper side, and a window where the light comes from.
        half = light - directions
        half = half / np.linalg.norm(half, axis=1, keepdims=True)
        window = np.clip(np.einsum("ij,ij->i", normal, half), 0, 1)
        window = window ** (9 if style.soft_light else 18) * (0.2 + 0.8 * lit)
        upward = np.clip(normal[:, 1], 0, 1) ** 2
        color = color + 0.14 * upward[:, None] + 0.75 * window[:, None]
    return np.asarray(color)


def _lit(scene: Scene, points: Array, style: RenderStyle) -> Array:
    """(R,) the share of the light that reaches each point, 0 to 1."""
    light, sharp = np.array(_LIGHT[scene.light]), _SOFT if style.soft_light else _SHARP
    share = np.ones(len(points))
    for obj in scene.objects:
        offset = _middle(obj) - points
        along = offset @ light
        aside = np.einsum("ij,ij->i", offset, offset) - along**2
        reach = _reach(obj) + 6 / sharp
        near = np.flatnonzero((along > -reach) & (aside < reach**2))
        walked = np.full(len(near), 0.02)
        for _ in range(_SHADOW_STEPS):
            apart = _distance(obj, points[near] + walked[:, None] * light)
            share[near] = np.minimum(share[near], np.clip(sharp * apart / walked, 0, 1))
            walked += np.clip(apart, 0.03, 0.5)
    return share * share * (3 - 2 * share)


def _openness(scene: Scene, points: Array, normal: Array) -> Array:
    """(R,) how little the objects around keep of the light of the sky, up to 1."""
    kept = np.zeros(len(points))
    for step in _OCCLUSION:
        for obj in scene.objects:
            apart = np.clip(_distance(obj, points + step * normal), 0, None)
            kept += np.clip(step - apart, 0, None) * 0.5
    return np.asarray(np.clip(1 - kept, 0.4, 1))


def _normal(obj: SceneObject, points: Array) -> Array:
    step = 1e-4
    slopes = [
        _distance(obj, points + step * axis) - _distance(obj, points - step * axis)
        for axis in np.eye(3)
    ]
    normal = np.stack(slopes, axis=-1)
    return np.asarray(normal / np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-9))


def _middle(obj: SceneObject) -> Array:
    x, z = obj.floor_position
    return np.array([x, obj.radius, z])


def _reach(obj: SceneObject) -> float:
    """The radius of a ball around the object."""
    return 1.6 * obj.radius


def _distance(obj: SceneObject, points: Array) -> Array:
    """(R,) at most the distance of each point from the object, negative inside it."""
    local = points - _middle(obj)
    radius = obj.radius
    aside = np.hypot(local[:, 0], local[:, 2])
    if obj.shape == "sphere":
        return np.asarray(np.hypot(aside, local[:, 1]) - radius)
    if obj.shape == "cube":
        half, cos, sin = 0.9 * radius, math.cos(obj.rotation), math.sin(obj.rotation)
        turned = np.stack(
            [
                cos * local[:, 0] + sin * local[:, 2],
                local[:, 1] + radius - half,
                cos * local[:, 2] - sin * local[:, 0],
            ],
            axis=-1,
        )
        return _box(np.abs(turned) - half)
    if obj.shape == "cylinder":
        return _box(np.stack([aside, np.abs(local[:, 1])], axis=-1) - radius)
    # Twice as high as it is wide: its side leans by 1 in 2.
    side = (2 * aside + local[:, 1] - radius) / math.sqrt(5)
    return np.maximum(side, -local[:, 1] - radius)


def _box(beyond: Array) -> Array:
    """The distance from a box, by how far each coordinate is beyond its faces."""
    outside = np.linalg.norm(np.clip(beyond, 0, None), axis=1)
    return np.asarray(outside + np.clip(beyond.max(axis=1), None, 0))
