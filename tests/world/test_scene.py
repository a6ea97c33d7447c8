"""Scenes: deterministic, complete, and apart where splits promise it."""

import math

import pytest

from vlv.errors import WorldError
from vlv.world.scene import (
    COLORS,
    FLOORS,
    HELD_OUT_PAIRS,
    LIGHTS,
    MATERIALS,
    SHAPES,
    SIZES,
    SPLITS,
    Scene,
    sample_scene,
)

SEEDS = range(600)


def pairs(scene: Scene) -> set[tuple[str, str]]:
    return {(obj.shape, obj.color) for obj in scene.objects}


def test_a_scene_is_a_function_of_seed_and_split() -> None:
    assert [sample_scene(s, "test") for s in SEEDS] == [sample_scene(s, "test") for s in SEEDS]
    by_split = [[sample_scene(s, split) for s in range(50)] for split in SPLITS]
    for i, scenes in enumerate(by_split):
        for others in by_split[:i]:
            assert not set(scenes) & set(others)


def test_training_scenes_hold_every_fact_and_no_held_out_pair() -> None:
    scenes = [sample_scene(s, "train") for s in SEEDS]
    objects = [obj for scene in scenes for obj in scene.objects]
    assert {obj.shape for obj in objects} == set(SHAPES)
    assert {obj.color for obj in objects} == set(COLORS)
    assert {obj.size for obj in objects} == set(SIZES)
    assert {obj.material for obj in objects} == set(MATERIALS)
    assert {scene.floor for scene in scenes} == set(FLOORS)
    assert {scene.light for scene in scenes} == set(LIGHTS)
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3}
    assert not any(pairs(scene) & HELD_OUT_PAIRS for scene in scenes)


def test_held_out_splits_hold_what_they_are_named_for() -> None:
    assert all(pairs(sample_scene(s, "unseen-pairs")) & HELD_OUT_PAIRS for s in range(200))
    counts = [sample_scene(s, "unseen-counts") for s in range(200)]
    assert all(len(scene.objects) == 4 for scene in counts)
    assert not any(pairs(scene) & HELD_OUT_PAIRS for scene in counts)


@pytest.mark.parametrize("split", SPLITS)
def test_objects_can_be_distinguished(split: str) -> None:
    for scene in (sample_scene(s, split) for s in range(200)):
        assert len(pairs(scene)) == len(scene.objects)
        assert all(obj.color != scene.floor for obj in scene.objects)
        for i, one in enumerate(scene.objects):
            for other in scene.objects[:i]:
                distance = math.dist(one.floor_position, other.floor_position)
                assert distance > one.radius + other.radius


def test_records_read_back() -> None:
    for seed in range(20):
        scene = sample_scene(seed)
        assert Scene.from_dict(scene.to_dict()) == scene


def test_wrong_names_are_errors() -> None:
    with pytest.raises(WorldError, match="unknown split 'tset'; the splits are train, test"):
        sample_scene(0, "tset")
    with pytest.raises(WorldError, match="not the record of a scene"):
        Scene.from_dict({"floor": "gray", "objects": []})
