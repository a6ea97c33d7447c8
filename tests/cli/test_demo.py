"""`vlv demo`: its captions, its picture, and the scenes it shows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlv.cli.demo import SCENES, SPLIT
from vlv.world.render import render
from vlv.world.scene import sample_scene


def test_the_demo_prints_captions_and_writes_one_picture(
    vlv: Callable, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = vlv("demo", "--model", tiny_model_dir, "--num_inference_steps", 2)
    assert ran.code == 0
    captions = [line for line in ran.out.splitlines() if line[:1].isdigit()]
    assert len(captions) == len(SCENES)
    assert all(len(line.split()) > 3 for line in captions)
    assert "vlv-demo.png" in ran.out
    assert [path.name for path in tmp_path.iterdir()] == ["vlv-demo.png"]
    with Image.open("vlv-demo.png") as picture:
        assert picture.format == "PNG"
        assert _count(np.asarray(picture.convert("RGB"))) == len(SCENES)


def _count(picture: np.ndarray) -> int:
    """How many of the demo's scenes are in a picture, three times enlarged, in one row."""
    found = set()
    for scene in SCENES:
        pixels = render(sample_scene(scene, SPLIT))
        large = np.repeat(np.repeat(pixels, 3, axis=0), 3, axis=1)
        corner = (picture[: -192 + 1, : -192 + 1] == large[0, 0]).all(axis=2)
        for y, x in zip(*np.nonzero(corner), strict=True):
            if (picture[y : y + 192, x : x + 192] == large).all():
                found.add((scene, y))
    assert len({y for _, y in found}) == 1
    return len(found)


def test_the_same_seed_draws_the_same_bytes(
    vlv: Callable, tiny_model_dir: Path, tmp_path: Path
) -> None:
    arguments = ["demo", "--model", tiny_model_dir, "--num_inference_steps", 2, "--out"]
    assert vlv(*arguments, tmp_path / "a.png", "--seed", 3).code == 0
    assert vlv(*arguments, tmp_path / "b.png", "--seed", 3).code == 0
    assert vlv(*arguments, tmp_path / "c.png", "--seed", 4).code == 0
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_it_does_not_follow_the_users_default_model(
    vlv: Callable, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLV_MODEL", str(tmp_path / "missing"))
    arguments = ["--num_inference_steps", 2, "--out", tmp_path / "x.png"]
    assert vlv("demo", "--model", tiny_model_dir, *arguments).code == 0
    assert str(tmp_path / "missing") not in vlv("demo", *arguments).err


def test_it_writes_a_png_or_nothing(vlv: Callable, tmp_path: Path) -> None:
    assert vlv("demo", "--out", tmp_path / "x.jpg").code == 2


def test_the_scenes_are_varied() -> None:
    scenes = [sample_scene(scene, SPLIT) for scene in SCENES]
    objects = [obj for scene in scenes for obj in scene.objects]
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3}
    assert len({scene.floor for scene in scenes}) >= 3
    assert {scene.light for scene in scenes} == {"left", "right"}
    assert len({obj.shape for obj in objects}) == 4
    assert len({obj.color for obj in objects}) >= 6


def test_somebodys_picture_is_not_replaced(vlv: Callable, tmp_path: Path) -> None:
    mine = tmp_path / "mine.png"
    mine.write_bytes(b"mine")
    ran = vlv("demo", "--out", mine)
    assert ran.code == 2 and "exists already" in ran.err
    assert mine.read_bytes() == b"mine"
