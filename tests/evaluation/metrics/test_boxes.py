"""3D boxes: which are of one object, and how far apart they are."""

import math

import pytest

from vlv.evaluation.metrics.boxes import Box3D, difference, match


def box(name: str, x: float = 0.0, size: float = 1.0, yaw: float = 0.0) -> Box3D:
    return Box3D(name, (x, 0.0, 2.0), (size, 1.0, 1.0), (0.0, 0.0, yaw))


def test_errors_are_means_over_three_axes_and_a_half_turn_is_none() -> None:
    found = difference(box("cup"), box("cup", x=0.3, size=1.6, yaw=90))
    assert found.centre == pytest.approx(0.1) and found.scale == pytest.approx(0.2)
    assert found.angle == pytest.approx(math.radians(30))
    assert difference(box("cup", yaw=-170), box("cup", yaw=10)).angle == pytest.approx(0)
    assert difference(box("cup", yaw=175), box("cup", yaw=-175)).angle == pytest.approx(
        math.radians(10 / 3)
    )


def test_boxes_are_matched_by_name_and_place_over_all_of_them() -> None:
    first = [box("red cup", x=0), box("red cup", x=1), box("dog", x=5)]
    second = [box("cups", x=1.1), box("red cup", x=0.1), box("cat", x=5), box("Dogs", x=9)]
    pairs = {(a.name, a.centre[0]): (b.name, b.centre[0]) for a, b, _ in match(first, second)}
    assert pairs == {
        ("red cup", 0): ("red cup", 0.1),
        ("red cup", 1): ("cups", 1.1),
        ("dog", 5): ("Dogs", 9),  # however far: a cat at its place is no dog
    }


def test_the_assignment_is_the_best_of_all_and_not_the_nearest_first() -> None:
    # The nearest pair is 1.0 with 0.6, which would leave 0.0 with 1.5.
    first, second = [box("a", 0.0), box("a", 1.0)], [box("a", 0.6), box("a", 1.5)]
    assert [(a.centre[0], b.centre[0]) for a, b, _ in match(first, second)] == [(0, 0.6), (1, 1.5)]


def test_what_has_no_partner_is_no_pair() -> None:
    assert match([box("cup")], [box("tree")]) == []
    assert match([], [box("tree")]) == [] == match([box("cup")], [])
    assert len(match([box("cup")], [box("cup"), box("cup", x=1)])) == 1
