"""The second renderer: the same scenes, in the same places, in other pictures."""

from dataclasses import replace

import numpy as np
import pytest

from vlv.world import render as first
from vlv.world.other_render import LOW_CAMERA, STYLES, Camera, RenderStyle, render_in_style
from vlv.world.scene import SHAPES, Scene, SceneObject, sample_scene

PLAIN = RenderStyle()


def scene(shape: str = "sphere", color: str = "red", **facts: object) -> Scene:
    obj = SceneObject(shape, color, "large", "matte", x=-0.5, z=0.5, rotation=0.3)
    return Scene("gray", "left", (replace(obj, **facts),))  # type: ignore[arg-type]


def project(camera: Camera, points: np.ndarray) -> np.ndarray:
    """Pixel coordinates (..., 2) as (column, row) of world points (..., 3)."""
    local = (points - np.array(camera.eye)) @ camera.axes.T
    plane = camera.focal * local[..., :2] / local[..., 2:] * np.array([1.0, -1.0])
    return (plane + 1) * first.IMAGE_SIZE / 2


def differs(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


def test_its_camera_is_that_of_the_first_renderer_until_it_is_moved() -> None:
    points = np.random.default_rng(0).uniform((-2, 0, 0), (2, 2, 4), (50, 3))
    assert project(Camera(), points) == pytest.approx(first.project(points))
    assert np.abs(project(LOW_CAMERA, points) - first.project(points)).max() > 3


@pytest.mark.parametrize("shape", SHAPES)
def test_objects_are_where_the_first_renderer_has_them(shape: str) -> None:
    for color in ("red", "blue"):
        one = scene(shape, color)
        # The floor and shadows on it are gray.
        ours, theirs = (
            np.ptp(picture, axis=-1) > 0.4 * picture.max(axis=-1)
            for picture in (render_in_style(one, PLAIN).astype(float), first.render(one))
        )
        assert (ours & theirs).sum() > 0.85 * (ours | theirs).sum()


def test_the_low_camera_keeps_objects_inside_left_left_and_far_things_above() -> None:
    for seed in range(200):
        objects = sample_scene(seed, "unseen-counts").objects
        boxes = np.array(
            [
                project(
                    LOW_CAMERA,
                    np.array([[x - r, 0, z], [x + r, 0, z], [x, 2 * r, z], [x, 0, z - r]]),
                )
                for obj in objects
                for (x, z), r in [(obj.floor_position, obj.radius)]
            ]
        )
        assert boxes.min() > 0 and boxes.max() < first.IMAGE_SIZE
        feet = np.array(
            [
                project(LOW_CAMERA, np.array([o.floor_position[0], 0, o.floor_position[1]]))
                for o in objects
            ]
        )
        depths = np.argsort([obj.z for obj in objects])
        assert (np.diff(feet[depths, 1]) < 0).all()


def test_every_style_is_another_picture_and_the_same_on_every_run() -> None:
    one = sample_scene(7, "test")
    pictures = {name: render_in_style(one, style, seed=3) for name, style in STYLES.items()}
    for name, style in STYLES.items():
        assert pictures[name].shape == (64, 64, 3)
        assert np.array_equal(pictures[name], render_in_style(one, style, seed=3))
        for other in STYLES:
            assert other == name or differs(pictures[name], pictures[other]) > 0.5
    noisy = STYLES["noise"]
    assert not np.array_equal(pictures["noise"], render_in_style(one, noisy, seed=4))


def test_light_comes_from_its_side_and_is_softer_where_asked() -> None:
    left = render_in_style(scene(x=0.0, material="matte"), PLAIN).astype(float)
    right = render_in_style(replace(scene(x=0.0), light="right"), PLAIN).astype(float)
    assert left[:, :32].mean() > left[:, 32:].mean()
    assert right[:, :32].mean() < right[:, 32:].mean()
    soft = render_in_style(scene(x=0.0), STYLES["soft light"]).astype(float)
    assert soft.min(axis=(0, 1)).sum() > left.min(axis=(0, 1)).sum() - 20
    edges = [np.abs(np.diff(one[..., 1], axis=1)).max() for one in (left, soft)]
    assert edges[1] <= edges[0]


def test_shiny_things_have_a_highlight() -> None:
    matte, shiny = (
        render_in_style(scene("sphere", "blue", material=material), PLAIN).astype(int)
        for material in ("matte", "shiny")
    )
    assert shiny[..., 0].max() > matte[..., 0].max() + 40
