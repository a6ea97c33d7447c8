"""Pictures: the same bytes for the same scene, and what a scene says can be seen in them."""

import dataclasses
import hashlib

import numpy as np
import pytest

from vlv.world.render import IMAGE_SIZE, pixel_box, project, render, scene_record
from vlv.world.scene import COLORS, SHAPES, SIZES, SPLITS, Scene, SceneObject, sample_scene


def one_object(**changes: object) -> Scene:
    facts = {
        "shape": "sphere",
        "color": "red",
        "size": "large",
        "material": "matte",
        "x": 0.0,
        "z": 0.5,
        "rotation": 0.3,
    }
    return Scene("gray", "left", (SceneObject(**{**facts, **changes}),))  # type: ignore[arg-type]


def test_equal_seeds_give_equal_bytes() -> None:
    def digest() -> str:
        pictures = [render(sample_scene(seed, split)) for split in SPLITS for seed in range(8)]
        return hashlib.sha256(b"".join(picture.tobytes() for picture in pictures)).hexdigest()

    assert digest() == digest()
    picture = render(sample_scene(0))
    assert (picture.shape, picture.dtype) == ((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)


@pytest.mark.parametrize(("size", "least"), [("small", 12), ("large", 20)])
def test_sizes_span_enough_pixels_everywhere(size: str, least: float) -> None:
    for shape in SHAPES:
        for x in (-1.0, 0.0, 1.0):
            for z in (0.0, 0.5, 1.0):
                for rotation in (0.0, 0.4, 0.8):
                    changes = {"shape": shape, "size": size, "x": x, "z": z, "rotation": rotation}
                    x0, y0, x1, y1 = pixel_box(one_object(**changes).objects[0])
                    assert min(x1 - x0, y1 - y0) >= least, changes


def test_the_box_holds_what_the_object_changes_in_the_picture() -> None:
    for shape in SHAPES:
        for size in SIZES:
            scene = one_object(shape=shape, size=size, color="yellow")
            empty = render(Scene("gray", "left", ()))
            # Only the object is that yellow; its shadow is gray.
            picture = render(scene).astype(int)
            yellow = picture[..., 0] - picture[..., 2] > 60
            rows, columns = np.nonzero(yellow & (np.abs(picture - empty).sum(-1) > 30))
            x0, y0, x1, y1 = pixel_box(scene.objects[0])
            assert columns.min() >= x0 - 1 and columns.max() <= x1 + 1, (shape, size)
            assert rows.min() >= y0 - 1 and rows.max() <= y1 + 1, (shape, size)
            assert columns.max() - columns.min() > 0.8 * (x1 - x0) - 2


@pytest.mark.parametrize("fact", ["shape", "color", "size", "material", "rotation"])
def test_every_fact_can_be_seen(fact: str) -> None:
    other = {"shape": "cube", "color": "blue", "size": "small", "material": "shiny"}
    base = one_object(shape="cube") if fact == "rotation" else one_object()
    value = 0.9 if fact == "rotation" else other[fact]
    changed = dataclasses.replace(base.objects[0], **{fact: value})
    difference = np.abs(
        render(base).astype(int) - render(dataclasses.replace(base, objects=(changed,))).astype(int)
    )
    assert difference.max() > 40


def test_light_comes_from_its_side() -> None:
    for color in COLORS:
        left, right = (
            render(dataclasses.replace(one_object(color=color), light=side)).astype(float)
            for side in ("left", "right")
        )
        half = IMAGE_SIZE // 2
        assert left[:, :half].mean() > left[:, half:].mean()
        assert right[:, half:].mean() > right[:, :half].mean()


def test_right_is_right_and_far_is_up() -> None:
    def centre(x: float, z: float) -> np.ndarray:
        (obj,) = one_object(x=x, z=z).objects
        fx, fz = obj.floor_position
        return project(np.array([fx, obj.radius, fz]))

    assert centre(1, 0.5)[0] > centre(0, 0.5)[0] > centre(-1, 0.5)[0]
    assert centre(0, 1)[1] < centre(0, 0)[1]


def test_a_record_has_the_fields_of_the_schema() -> None:
    scene = sample_scene(3)
    record = scene_record(scene, seed=3, split="train", caption="A.", file_name="3.png")
    assert list(record) == ["file_name", "seed", "split", "caption", "scene"]
    assert list(record["scene"]["objects"][0]) == [
        "shape",
        "color",
        "size",
        "material",
        "x",
        "z",
        "rotation",
        "pixel_box",
    ]
    assert Scene.from_dict(record["scene"]) == scene
