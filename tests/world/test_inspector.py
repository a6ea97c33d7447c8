"""The inspector: targets, loss, decoding, files, and that the whole of it learns to see."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlv.errors import CheckpointError
from vlv.training.objectives.inspector import inspector_loss
from vlv.training.samples.inspector_targets import GRID, degrade, scene_targets, targets
from vlv.world.inspector import (
    CELL_OUTPUTS,
    PICTURE_OUTPUTS,
    STRIDE,
    Inspector,
    InspectorConfig,
    decode,
    to_pixels,
)
from vlv.world.render import pixel_box, render
from vlv.world.scene import (
    COLORS,
    FLOORS,
    LIGHTS,
    MATERIALS,
    SHAPES,
    SIZES,
    SPLITS,
    Scene,
    SceneObject,
    sample_scene,
)

SMALL = InspectorConfig(fine=8, grid=16, coarse=24)


def perfect_outputs(scenes: list[Scene]) -> dict[str, Tensor]:
    """What an inspector that knows the targets would say."""
    truth = targets(scenes)
    outputs = {
        name: 20.0 * torch.eye(count)[truth[name]].permute(0, 3, 1, 2)
        for name, count in CELL_OUTPUTS.items()
        if name in ("shape", "color", "size", "material")
    }
    for name, count in PICTURE_OUTPUTS.items():
        outputs[name] = 20.0 * torch.eye(count)[truth[name]]
    # 1 at centres and nearly 0 elsewhere, as logits.
    outputs["heat"] = torch.where(truth["heat"] == 1, 20.0, -20.0)[:, None]
    return outputs | {name: truth[name] for name in ("offset", "place", "rotation")}


@pytest.mark.parametrize("split", SPLITS)
def test_targets_decode_to_the_scene(split: str) -> None:
    scenes = [sample_scene(seed, split) for seed in range(40)]
    for scene, seen in zip(scenes, decode(perfect_outputs(scenes)), strict=True):
        assert (seen.floor, seen.light) == (scene.floor, scene.light)
        assert len(seen.objects) == len(scene.objects)
        for obj in scene.objects:
            (match,) = [o for o in seen.objects if (o.shape, o.color) == (obj.shape, obj.color)]
            assert (match.size, match.material) == (obj.size, obj.material)
            assert (match.x, match.z) == pytest.approx((obj.x, obj.z), abs=1e-5)
            # A quarter turn is where the circle of rotations closes.
            turned = 4 * (match.rotation - obj.rotation)
            assert math.cos(turned) == pytest.approx(1, abs=1e-4)
            assert match.confidence > 0.99


def test_heat_peaks_inside_the_objects_boxes() -> None:
    for seed in range(20):
        scene = sample_scene(seed)
        heat = scene_targets(scene)["heat"]
        peaks = (heat == 1).nonzero()
        assert len(peaks) == len(scene.objects)
        for row, column in ((peaks + 0.5) * STRIDE).tolist():
            boxes = [pixel_box(obj) for obj in scene.objects]
            assert any(x0 < column < x1 and y0 < row < y1 for x0, y0, x1, y1 in boxes)


def test_perfect_outputs_cost_next_to_nothing_and_each_fault_costs_more() -> None:
    scenes = [sample_scene(seed) for seed in range(16)]
    truth, outputs = targets(scenes), perfect_outputs(scenes)
    best, metrics = inspector_loss(outputs, truth)
    assert best < 1e-3
    assert metrics["shape_accuracy"] == metrics["color_accuracy"] == 1
    for name in outputs:
        spoiled = outputs | {name: outputs[name].roll(1, dims=0)}
        worse, faults = inspector_loss(spoiled, truth)
        assert worse > best + 0.01, name
        assert faults[name] > metrics[name] + 0.01, name


def test_rotation_is_learned_from_cubes_alone() -> None:
    place = {"color": "red", "size": "large", "material": "matte", "x": 0.0, "z": 0.5}
    for shape in SHAPES:
        obj = SceneObject(shape=shape, rotation=0.3, **place)
        truth = targets([Scene("gray", "left", (obj,))])
        rotation = torch.zeros(1, 2, GRID, GRID, requires_grad=True)
        outputs = perfect_outputs([Scene("gray", "left", (obj,))]) | {"rotation": rotation}
        inspector_loss(outputs, truth)[0].backward()
        assert rotation.grad is not None
        assert bool(rotation.grad.any()) == (shape == "cube")


def test_a_second_peak_of_the_same_object_is_dropped() -> None:
    scene = Scene("gray", "left", (SceneObject("cube", "red", "large", "matte", 0.0, 0.5, 0.1),))
    outputs = perfect_outputs([scene])
    row, column = (outputs["heat"][0, 0] > 0).nonzero()[0].tolist()
    # Two cells on, the cell's own offset points back to the same centre.
    outputs["heat"][0, 0, row, column + 2] = 3.0
    outputs["offset"][0, :, row, column + 2] = outputs["offset"][0, :, row, column] - torch.tensor(
        [2.0, 0.0]
    )
    assert len(decode(outputs)[0].objects) == 1
    outputs["offset"][0, :, row, column + 2] = 0.0
    first, second = decode(outputs)[0].objects
    assert first.confidence > second.confidence


def test_nothing_above_the_threshold_is_nothing_seen() -> None:
    outputs = perfect_outputs([sample_scene(0)])
    outputs["heat"].fill_(-5.0)
    assert decode(outputs)[0].objects == ()


def test_shapes_and_words() -> None:
    torch.manual_seed(0)
    inspector = Inspector().eval()
    pictures = np.stack([render(sample_scene(seed)) for seed in range(5)])
    with torch.no_grad():
        outputs = inspector(to_pixels(torch.from_numpy(pictures)))
        features = inspector.features(to_pixels(torch.from_numpy(pictures)))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        **{name: (5, count, GRID, GRID) for name, count in CELL_OUTPUTS.items()},
        **{name: (5, count) for name, count in PICTURE_OUTPUTS.items()},
    }
    assert features.shape == (5, inspector.num_features)
    assert 0.6e6 < sum(p.numel() for p in inspector.parameters()) < 1.5e6
    inspector.cell_head.bias.data[0] = 5.0  # see things everywhere
    for seen in inspector.inspect(pictures, batch_size=2):
        assert seen.floor in FLOORS
        assert seen.light in LIGHTS
        assert seen.objects
        for obj in seen.objects:
            assert obj.shape in SHAPES
            assert obj.color in COLORS
            assert obj.size in SIZES
            assert obj.material in MATERIALS
            assert 0 <= obj.rotation < math.pi / 2
    one_by_one = [inspector.inspect(picture[None])[0] for picture in pictures]
    together = inspector.inspect(pictures)
    assert [len(seen.objects) for seen in together] == [len(s.objects) for s in one_by_one]


def test_degraded_pictures_stay_pictures_and_depend_on_the_generator_alone() -> None:
    image = to_pixels(torch.from_numpy(render(sample_scene(3)))[None])[0]
    changed = 0
    for seed in range(30):
        once, again = (degrade(image, torch.Generator().manual_seed(seed)) for _ in range(2))
        assert torch.equal(once, again)
        assert once.shape == image.shape
        assert once.abs().max() <= 1
        assert (once - image).square().mean() < 0.05
        changed += not torch.equal(once, image)
    assert 10 <= changed <= 28


def test_learns_to_see() -> None:
    """A small inspector finds the objects of the pictures that it has been shown."""
    torch.manual_seed(0)
    scenes = [sample_scene(seed) for seed in range(6)]
    pictures = np.stack([render(scene) for scene in scenes])
    x, truth = to_pixels(torch.from_numpy(pictures)), targets(scenes)
    inspector = Inspector(SMALL)
    optimizer = torch.optim.Adam(inspector.parameters(), lr=4e-3)
    for _ in range(120):
        loss, _ = inspector_loss(inspector(x), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    looks = [{(o.shape, o.color) for o in scene.objects} for scene in scenes]
    seen = [{(o.shape, o.color) for o in s.objects} for s in inspector.inspect(pictures)]
    found = sum(len(a & b) for a, b in zip(seen, looks, strict=True))
    assert found >= 0.9 * sum(map(len, looks))
    assert found >= 0.9 * sum(map(len, seen))


class TestFiles:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        torch.manual_seed(1)
        Inspector(SMALL).save_pretrained(tmp_path / "inspector", provenance={"steps": 7})
        return tmp_path / "inspector"

    def test_comes_back_as_it_was(self, folder: Path) -> None:
        torch.manual_seed(1)
        before, after = Inspector(SMALL), Inspector.from_pretrained(folder)
        assert after.config == SMALL
        assert not after.training
        x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            for name, value in before(x).items():
                assert torch.equal(value, after(x)[name])
        assert json.loads((folder / "config.json").read_text())["provenance"] == {"steps": 7}

    def test_half_precision_on_disk_is_float32_in_memory(self, tmp_path: Path) -> None:
        Inspector(SMALL).save_pretrained(tmp_path / "half", dtype=torch.float16)
        weights = load_file(tmp_path / "half" / "model.safetensors")
        assert {value.dtype for value in weights.values()} == {torch.float16}
        half = Inspector.from_pretrained(tmp_path / "half")
        assert {p.dtype for p in half.parameters()} == {torch.float32}

    @pytest.mark.parametrize("fault", ["missing", "renamed", "misshapen", "torn", "no config"])
    def test_a_fault_is_named(self, folder: Path, fault: str) -> None:
        path = folder / "model.safetensors"
        weights = load_file(path)
        name = "picture_head.weight"
        named = name
        if fault == "missing":
            del weights[name]
        elif fault == "renamed":
            weights["picture_heat.weight"] = weights.pop(name)
        elif fault == "misshapen":
            weights[name] = weights[name][:-1].clone()
        save_file(weights, path)
        if fault == "torn":
            path.write_bytes(path.read_bytes()[:100])
            named = "damaged"
        elif fault == "no config":
            (folder / "config.json").unlink()
            named = "no inspector in"
        with pytest.raises(CheckpointError, match=named):
            Inspector.from_pretrained(folder)


def test_objects_at_the_edges_keep_their_cell() -> None:
    """Wherever an object may stand, its centre falls into a cell of the grid."""
    for x in (-1.0, 1.0):
        for z in (0.0, 1.0):
            for size in SIZES:
                obj = SceneObject("sphere", "red", size, "matte", x, z, 0.0)
                one = scene_targets(Scene("gray", "left", (obj,)))
                two = scene_targets(Scene("gray", "left", (replace(obj, x=0.9 * x),)))
                assert (one["heat"] == 1).sum() == 1
                peak = tuple((one["heat"] == 1).nonzero()[0].tolist())
                assert one["offset"][:, peak[0], peak[1]].abs().max() <= 0.51
                assert not torch.equal(one["place"], two["place"])


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"config": []}',
        '{"a": ' * 100_000,
        '{"config": {"fine": ' + "9" * 5000 + "}}",
        '{"config": {"fine": 1000000}}',
        '{"config": {"grid": 0}}',
        '{"config": {"coarse": "x"}}',
    ],
)
def test_a_config_of_another_shape_is_reported_in_a_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="cannot be used") as reported:
        Inspector.from_pretrained(tmp_path)
    assert "\n" not in str(reported.value)
