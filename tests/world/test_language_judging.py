"""Verdicts fact by fact, and planted errors of every kind."""

import numpy as np
import pytest

from vlv.errors import WorldError
from vlv.world.counterfactual import ALTERATIONS, alter, wrong_caption
from vlv.world.language import Claim, Verdict, judge, long_caption, read_caption
from vlv.world.scene import Scene, SceneObject, sample_scene

SCENE = Scene(
    floor="gray",
    light="left",
    objects=(
        SceneObject("cube", "red", "small", "shiny", x=-0.6, z=0.9, rotation=0.0),
        SceneObject("cone", "blue", "large", "matte", x=0.5, z=0.1, rotation=0.0),
        SceneObject("cube", "blue", "large", "shiny", x=0.28, z=0.5, rotation=0.0),
    ),
)


def verdicts(caption: str) -> list[tuple[str, str]]:
    claims = read_caption(caption)
    return [(c.kind, str(v)) for c, v in zip(claims, judge(claims, SCENE), strict=True)]


def false_claims(caption: str, scene: Scene) -> list[Claim]:
    claims = read_caption(caption)
    pairs = zip(claims, judge(claims, scene), strict=True)
    return [claim for claim, verdict in pairs if verdict is Verdict.FALSE]


def test_one_wrong_fact_is_one_false_claim() -> None:
    assert verdicts("A large shiny red cube stands at the back right.") == [
        ("object", "true"),
        ("size", "false"),
        ("material", "true"),
        ("column", "false"),
        ("row", "true"),
    ]


def test_nothing_is_true_of_an_invented_object() -> None:
    assert set(verdicts("A small shiny red cone stands at the back left.")) == {
        (kind, "false") for kind in ("object", "size", "material", "column", "row")
    }
    caption = "There is a red cube and a red cone. The red cube is behind the red cone."
    assert verdicts(caption)[-1] == ("relation", "false")


def test_an_object_described_twice_exists_once() -> None:
    caption = "There is a red cube at the front right. There is a red cube at the back left."
    # The description with more true facts is taken for the real one.
    assert verdicts(caption) == [
        ("object", "false"),
        ("column", "false"),
        ("row", "false"),
        ("object", "true"),
        ("column", "true"),
        ("row", "true"),
    ]


def test_vague_descriptions_are_matched_one_to_one() -> None:
    both = "There is a blue cube and a cube at the back left."
    assert [verdict for _, verdict in verdicts(both)] == ["true"] * 4
    three = "There is a cube, a cube, and a cube."
    assert sorted(verdict for _, verdict in verdicts(three)) == ["false", "true", "true"]


@pytest.mark.parametrize(("place", "true"), [("right", True), ("middle", True), ("left", False)])
def test_places_near_an_edge_may_be_called_either(place: str, true: bool) -> None:
    where = "in the middle" if place == "middle" else f"on the {place}"
    assert ("column", str(true).lower()) in verdicts(f"There is a blue cube {where}.")


def test_relations() -> None:
    caption = "There is a red cube, a blue cone, and a blue cube. The cone is {} the red cube."
    for relation, true in {
        "in front of": True,
        "behind": False,
        "to the right of": True,
        "to the left of": False,
    }.items():
        assert verdicts(caption.format(relation))[-1] == ("relation", str(true).lower())
    level = Scene("gray", "left", (SCENE.objects[0], _beside(SCENE.objects[0])))
    for relation in ("in front of", "behind"):
        assert not false_claims(
            f"There is a red cube and a white cone. The white cone is {relation} the red cube.",
            level,
        )


def _beside(obj: SceneObject) -> SceneObject:
    return SceneObject("cone", "white", "small", "matte", x=obj.x + 0.6, z=obj.z - 0.03, rotation=0)


def test_a_name_that_fits_several_is_unknown_where_they_differ() -> None:
    caption = "There is a red cube and a blue cube. The cube is {}."
    assert verdicts(caption.format("large"))[-1] == ("size", "unknown")
    assert verdicts(caption.format("shiny"))[-1] == ("material", "true")
    assert verdicts(caption.format("matte"))[-1] == ("material", "false")


def test_counts_and_setting() -> None:
    assert verdicts("There are three objects in the picture.") == [("count", "true")]
    assert verdicts("There are two objects in the picture.") == [("count", "false")]
    assert verdicts("Two of them are shiny and two are matte.") == [
        ("count", "true"),
        ("count", "false"),
    ]
    assert verdicts("All objects are large.") == [("count", "false")]
    assert verdicts("Both of them are large.") == [("count", "false"), ("count", "true")]
    assert verdicts("The floor is brown, and light falls from the left.") == [
        ("floor", "false"),
        ("light", "true"),
    ]


def test_unreadable_counts_as_false() -> None:
    assert verdicts("The floor is gray. Gray the is.") == [
        ("floor", "true"),
        ("unreadable", "false"),
    ]


# The kinds of claims that an error of each kind must make false, and no others may be.
FALSE_KINDS = {
    "color": {"object", "size", "material", "column", "row", "relation"},
    "shape": {"object", "size", "material", "column", "row", "relation"},
    "size": {"size", "count"},
    "material": {"material", "count"},
    "place": {"column", "row", "relation"},
    "left-out object": {"count"},
    "relation": {"column", "row", "relation"},
    "invented object": {"object", "size", "material", "column", "row", "relation", "count"},
    "floor": {"floor"},
    "light": {"light"},
}
NAMED = {"color": "object", "shape": "object", "invented object": "object"}
NAMED["left-out object"] = "count"
# Of a pair a relation is sure to be written only when there is no other pair.
NUMBERS_OF_OBJECTS = {"left-out object": (2, 3), "relation": (2,)}


@pytest.mark.parametrize("kind", ALTERATIONS)
def test_planted_errors_are_found_in_long_captions(kind: str) -> None:
    planted = 0
    for seed in range(120):
        scene = sample_scene(seed, "train")
        if len(scene.objects) not in NUMBERS_OF_OBJECTS.get(kind, (1, 2, 3)):
            continue
        rng = np.random.default_rng(seed)
        try:
            altered = alter(scene, kind, rng)
        except WorldError:
            continue  # two objects on one line of sight, or no room
        caption = long_caption(altered, rng)
        kinds = [claim.kind for claim in false_claims(caption, scene)]
        assert kinds and set(kinds) <= FALSE_KINDS[kind], caption
        if kind != "place":
            assert NAMED.get(kind, kind) in kinds, caption
        if NAMED.get(kind) == "object":
            assert kinds.count("object") == 1, caption
        assert not false_claims(caption, altered), caption
        planted += 1
    assert planted >= 30


@pytest.mark.parametrize("kind", ["color", "shape", "size", "material", "place", "floor", "light"])
def test_planted_errors_are_found_in_short_captions(kind: str) -> None:
    for seed in range(60):
        # Four objects leave no room to move one.
        scene = sample_scene(seed, "train" if kind == "place" else "unseen-counts")
        rng = np.random.default_rng(seed)
        caption = wrong_caption(scene, kind, rng)
        kinds = [claim.kind for claim in false_claims(caption, scene)]
        if kind in ("size", "material", "floor", "light"):
            assert kinds == [kind], caption
        else:
            assert kinds and set(kinds) <= FALSE_KINDS[kind], caption


def test_a_wrong_number_of_objects_is_the_only_error_of_its_caption() -> None:
    planted = 0
    for seed in range(60):
        scene = sample_scene(seed, "train")
        if len(scene.objects) > 1:
            caption = wrong_caption(scene, "count", np.random.default_rng(seed))
            assert [claim.kind for claim in false_claims(caption, scene)] == ["count"], caption
            planted += 1
    assert planted >= 30


def test_a_scene_without_room_for_an_error_is_refused() -> None:
    alone = Scene("gray", "left", SCENE.objects[:1])
    rng = np.random.default_rng(0)
    with pytest.raises(WorldError, match="use two or three"):
        wrong_caption(alone, "count", rng)
    for kind in ("left-out object", "relation"):
        with pytest.raises(WorldError, match="larger scene"):
            alter(alone, kind, rng)
    with pytest.raises(WorldError, match="unknown kind of error 'typo'"):
        alter(alone, "typo", rng)
