from dataclasses import replace

import pytest

from vlv.evaluation.metrics.pictures import centre_distance, match_objects, rotation_distance
from vlv.world.inspector import Detected
from vlv.world.scene import SceneObject

RED_CUBE = SceneObject("cube", "red", "small", "matte", x=0.5, z=0.5, rotation=0.2)
BLUE_CONE = SceneObject("cone", "blue", "large", "shiny", x=-0.5, z=0.1, rotation=0.0)


def seen(obj: SceneObject, **changes: object) -> Detected:
    found = Detected(**vars(obj), confidence=0.9)
    return replace(found, **changes)


def test_pairs_agree_in_shape_and_colour_whatever_the_order() -> None:
    detected = [seen(BLUE_CONE), seen(RED_CUBE)]
    assert match_objects(detected, [RED_CUBE, BLUE_CONE]) == [
        (detected[0], BLUE_CONE),
        (detected[1], RED_CUBE),
    ]


@pytest.mark.parametrize("fault", [{"shape": "cone"}, {"color": "green"}])
def test_another_look_is_no_match_at_the_same_place(fault: dict[str, str]) -> None:
    assert match_objects([seen(RED_CUBE, **fault)], [RED_CUBE]) == []


def test_size_material_and_place_do_not_decide() -> None:
    other = seen(RED_CUBE, size="large", material="shiny", x=-1.0, z=1.0)
    assert match_objects([other], [RED_CUBE]) == [(other, RED_CUBE)]


def test_an_object_is_matched_once_by_the_nearest() -> None:
    far, near = seen(RED_CUBE, x=-0.9), seen(RED_CUBE, x=0.6)
    assert match_objects([far, near], [RED_CUBE]) == [(near, RED_CUBE)]


def test_twins_are_matched_for_the_least_distance_in_total() -> None:
    left, right = replace(RED_CUBE, x=0.0), replace(RED_CUBE, x=0.5)
    # Nearest first would take (a, right) and leave b with the far one.
    a, b = seen(RED_CUBE, x=0.3), seen(RED_CUBE, x=0.9)
    assert match_objects([a, b], [left, right]) == [(a, left), (b, right)]


def test_nothing_matches_nothing() -> None:
    assert match_objects([], [RED_CUBE]) == []
    assert match_objects([seen(RED_CUBE)], []) == []


def test_centre_distance_is_in_world_units() -> None:
    # At z = 0 the floor is 1.45 wide on each side; it is 4 deep.
    front = replace(RED_CUBE, x=0.0, z=0.0)
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
