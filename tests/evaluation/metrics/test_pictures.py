import math
from dataclasses import astuple, replace

import numpy as np
import pytest

from vlv.evaluation.metrics.pictures import (
    PictureJudge,
    centre_distance,
    inspector_features,
    match_objects,
    rotation_distance,
    scene_ratios,
)
from vlv.evaluation.metrics.statistics import Bootstrap
from vlv.world.inspector import Detected, Inspection, Inspector
from vlv.world.render import render
from vlv.world.scene import Scene, SceneObject, sample_scene

CUBE = SceneObject("cube", "red", "small", "matte", x=0.5, z=0.5, rotation=0.2)
CONE = SceneObject("cone", "blue", "large", "shiny", x=-0.5, z=0.0, rotation=0.9)
SCENE = Scene("gray", "left", (CUBE, CONE))


def look(scene: Scene, *objects: Detected) -> Inspection:
    return Inspection(scene.floor, scene.light, objects)


def seen(obj: SceneObject, **changes: object) -> Detected:
    return replace(Detected(**vars(obj), confidence=0.9), **changes)


def figures(*pairs: tuple[Inspection, Scene]) -> dict[str, float]:
    ratios = scene_ratios([one for one, _ in pairs], [scene for _, scene in pairs])
    bootstrap = Bootstrap(len(pairs), seed=0)
    return {name: bootstrap.figure(ratio).value for name, ratio in ratios.items()}


def test_a_true_inspection() -> None:
    got = figures((look(SCENE, seen(CONE), seen(CUBE)), SCENE))
    assert (got.pop("centre_error"), got.pop("rotation_error")) == (0, 0)
    # There is none in the scene.
    assert math.isnan(got.pop("sphere_accuracy")) and math.isnan(got.pop("cylinder_accuracy"))
    assert set(got.values()) == {1}


def test_each_fault_moves_its_own_figure() -> None:
    def changed(one: Inspection) -> set[str]:
        best = figures((look(SCENE, seen(CUBE), seen(CONE)), SCENE))
        got = figures((one, SCENE))
        same = {name for name in got if np.isclose(got[name], best[name], equal_nan=True)}
        return set(got) - same

    whole = look(SCENE, seen(CUBE), seen(CONE))
    assert changed(replace(whole, floor="brown")) == {"floor_accuracy"}
    assert changed(replace(whole, light="right")) == {"light_accuracy"}
    assert changed(look(SCENE, seen(CUBE, size="large"), seen(CONE))) == {"size_accuracy"}
    assert changed(look(SCENE, seen(CUBE, material="shiny"), seen(CONE))) == {"material_accuracy"}
    assert changed(look(SCENE, seen(CUBE, rotation=0.4), seen(CONE))) == {"rotation_error"}
    assert changed(look(SCENE, seen(CUBE), seen(CONE, rotation=0.1))) == set()
    assert changed(look(SCENE, seen(CUBE, x=0.6), seen(CONE))) == {"centre_error"}
    assert changed(look(SCENE, seen(CUBE, color="green"), seen(CONE))) == {
        "f1",
        "f1_any_shape",
        "precision",
        "recall",
        "rotation_error",  # no cube is found any more
        "cube_accuracy",
    }
    assert changed(look(SCENE, seen(CUBE), seen(CONE, shape="sphere"))) == {
        "f1",
        "f1_any_color",
        "precision",
        "recall",
        "cone_accuracy",
    }
    f1 = {"f1", "f1_any_shape", "f1_any_color"}
    assert changed(look(SCENE, seen(CUBE))) == f1 | {"recall", "count_accuracy", "cone_accuracy"}
    assert changed(look(SCENE, seen(CUBE), seen(CONE), seen(CUBE))) == f1 | {
        "precision",
        "count_accuracy",
    }


def test_shapes_of_the_objects_found_whatever_their_shape() -> None:
    other = Scene("gray", "left", (replace(CUBE, color="green"), CONE))
    got = figures(
        (look(SCENE, seen(CUBE, shape="cylinder"), seen(CONE)), SCENE),
        (look(other, seen(other.objects[0])), other),
    )
    assert got["f1_any_shape"] == pytest.approx(2 * 3 / (3 + 4))
    assert (got["cube_accuracy"], got["cone_accuracy"]) == (0.5, 1)


def test_objects_of_all_scenes_count_alike() -> None:
    alone = Scene("gray", "left", (CUBE,))
    got = figures((look(alone), alone), (look(SCENE, seen(CUBE), seen(CONE)), SCENE))
    assert got["f1"] == pytest.approx(2 * 2 / (2 + 3))
    assert got["recall"] == pytest.approx(2 / 3)
    assert got["precision"] == 1
    assert got["count_accuracy"] == 0.5


def test_errors_are_means_over_the_objects_found() -> None:
    # 1.45 world units on the floor's front edge, and none for the cube.
    got = figures((look(SCENE, seen(CUBE, rotation=0.2 + math.pi / 8), seen(CONE, x=0.5)), SCENE))
    assert got["centre_error"] == pytest.approx(1.45 / 2)
    assert got["rotation_error"] == pytest.approx(22.5)


def test_nothing_seen_leaves_nothing_to_measure() -> None:
    got = figures((look(SCENE), SCENE))
    assert (got["f1"], got["recall"], got["count_accuracy"]) == (0, 0, 0)
    assert all(math.isnan(got[n]) for n in ("precision", "centre_error", "size_accuracy"))


class TestPictureJudge:
    scenes = [sample_scene(seed, "test") for seed in range(6)]
    renders = np.stack([render(scene) for scene in scenes])

    @pytest.fixture
    def judge(self, inspector: Inspector) -> PictureJudge:
        return PictureJudge(inspector, self.scenes, self.renders, seed=0)

    def test_true_renders_are_no_distance_from_themselves(self, judge: PictureJudge) -> None:
        got = judge.figures(judge.score(self.renders))
        assert got["pixel_error"].value == 0
        assert got["frechet"].value == pytest.approx(0, abs=1e-9)
        assert math.isfinite(got["psnr"].value)

    def test_pixel_error_and_psnr(self, judge: PictureJudge) -> None:
        brighter = np.where(self.renders < 250, self.renders + 5, self.renders - 5).astype(np.uint8)
        got = judge.figures(judge.score(brighter))
        assert got["pixel_error"].value == pytest.approx(5)
        assert got["psnr"].value == pytest.approx(20 * math.log10(255 / 5))
        assert got["frechet"].value > 0

    def test_fewer_pictures_are_of_the_first_scenes(self, judge: PictureJudge) -> None:
        noisy = self.renders ^ 3
        all_of_them = judge.score(noisy)
        first = judge.figures(all_of_them.first(4))
        for name, figure in judge.figures(judge.score(noisy[:4])).items():
            assert astuple(first[name]) == pytest.approx(astuple(figure), nan_ok=True, abs=1e-6)
        assert len(all_of_them.first(4)) == 4

    def test_differences_are_of_the_same_scenes(self, judge: PictureJudge) -> None:
        true, noisy = judge.score(self.renders), judge.score(self.renders ^ 3)
        gap = judge.difference("pixel_error", noisy, true)
        assert gap.value == judge.figure("pixel_error", noisy).value
        assert gap.low > 0
        assert judge.difference("pixel_error", noisy, noisy).high == 0


def test_each_picture_passes_through_the_inspector_once() -> None:
    scenes = [sample_scene(seed) for seed in range(3)]
    renders = np.stack([render(scene) for scene in scenes])
    inspector = Inspector.from_pretrained()
    judge = PictureJudge(inspector, scenes, renders, seed=0)
    passed: list[int] = []
    hook = inspector.stem.register_forward_hook(lambda *call: passed.append(len(call[2])))
    scores = judge.score(renders)
    hook.remove()
    assert sum(passed) == 3
    assert np.array_equal(scores.features, inspector_features(inspector, renders))


def test_pairs_agree_in_shape_and_colour_whatever_the_order() -> None:
    detected = [seen(CONE), seen(CUBE)]
    assert match_objects(detected, [CUBE, CONE]) == [
        (detected[0], CONE),
        (detected[1], CUBE),
    ]


@pytest.mark.parametrize("fault", [{"shape": "cone"}, {"color": "green"}])
def test_another_look_is_no_match_at_the_same_place(fault: dict[str, str]) -> None:
    assert match_objects([seen(CUBE, **fault)], [CUBE]) == []


def test_size_material_and_place_do_not_decide() -> None:
    other = seen(CUBE, size="large", material="shiny", x=-1.0, z=1.0)
    assert match_objects([other], [CUBE]) == [(other, CUBE)]


def test_an_object_is_matched_once_by_the_nearest() -> None:
    far, near = seen(CUBE, x=-0.9), seen(CUBE, x=0.6)
    assert match_objects([far, near], [CUBE]) == [(near, CUBE)]


def test_twins_are_matched_for_the_least_distance_in_total() -> None:
    left, right = replace(CUBE, x=0.0), replace(CUBE, x=0.5)
    # Nearest first would take (a, right) and leave b with the far one.
    a, b = seen(CUBE, x=0.3), seen(CUBE, x=0.9)
    assert match_objects([a, b], [left, right]) == [(a, left), (b, right)]


def test_nothing_matches_nothing() -> None:
    assert match_objects([], [CUBE]) == []
    assert match_objects([seen(CUBE)], []) == []


def test_centre_distance_is_in_world_units() -> None:
    # At z = 0 the floor is 1.45 wide on each side; it is 4 deep.
    front = replace(CUBE, x=0.0, z=0.0)
    assert centre_distance(seen(front, x=1.0), front) == pytest.approx(1.45)
    assert centre_distance(seen(front, z=0.5), front) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("a", "b", "degrees"),
    [
        (0.0, 0.0, 0),
        (1.5707963, 0.0, 0),
        (0.7853982, 0.0, 45),
        (0.05, 1.55, 4.057),
        (3.2, 0.0, 3.3465),
    ],
)
def test_rotation_repeats_every_quarter_turn(a: float, b: float, degrees: float) -> None:
    assert rotation_distance(a, b) == pytest.approx(degrees, abs=1e-3)
    assert rotation_distance(b, a) == pytest.approx(degrees, abs=1e-3)
