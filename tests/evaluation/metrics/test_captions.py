import math
from collections.abc import Callable

import numpy as np
import pytest

from vlv.evaluation.metrics.captions import caption_figures
from vlv.world.language import long_caption, short_caption
from vlv.world.scene import Scene, SceneObject, sample_scene

# One object at the back on the right, and one in front on the left.
SCENE = Scene(
    floor="gray",
    light="left",
    objects=(
        SceneObject("cube", "red", "small", "matte", x=0.8, z=0.9, rotation=0.0),
        SceneObject("sphere", "blue", "large", "shiny", x=-0.8, z=0.1, rotation=0.0),
    ),
)
SETTING = "The floor is gray and the light comes from the left."
CUBE = "A small matte red cube stands on the right at the back."
BALL = "A large shiny blue sphere stands on the left at the front."


def figures(caption: str, scene: Scene = SCENE) -> dict[str, float]:
    return {name: f.value for name, f in caption_figures([caption], [scene], seed=0).items()}


def test_a_complete_caption() -> None:
    assert figures(f"{CUBE} {BALL} {SETTING}") == {
        "precision": 1,
        "recall": 1,
        "object_recall": 1,
        "hallucinated": 0,
        "flawless": 1,
        "readable": 1,
        "words": 35,
        "repeated": 0,
    }


def test_a_caption_that_says_all_twice_repeats_itself() -> None:
    # Twelve words have nine runs of four, twice as many 21.
    assert figures(f"{CUBE} {CUBE}")["repeated"] == 9 / 21


def test_an_omission_lowers_recall_alone() -> None:
    got = figures(f"{CUBE} {SETTING}")
    assert (got["precision"], got["flawless"], got["hallucinated"]) == (1, 1, 0)
    # Of 2 x 5 facts of objects and 2 of the scene, 5 are left out.
    assert got["recall"] == pytest.approx(7 / 12)
    assert got["object_recall"] == 0.5


def test_a_wrong_fact_lowers_precision_and_recall() -> None:
    got = figures(f"{CUBE.replace('small', 'large')} {BALL} {SETTING}")
    assert got["precision"] == pytest.approx(11 / 12)
    assert got["recall"] == pytest.approx(11 / 12)
    assert got["object_recall"] == 1
    assert got["hallucinated"] == 0
    assert got["flawless"] == 0


def test_an_invented_object_is_a_hallucination() -> None:
    got = figures(f"{CUBE} {BALL} A small matte green cone stands in the very middle. {SETTING}")
    assert got["hallucinated"] == pytest.approx(1 / 3)
    assert got["object_recall"] == 1
    assert got["recall"] == 1
    assert got["precision"] == pytest.approx(12 / 17)


def test_the_wrong_colour_is_no_object_found() -> None:
    got = figures(f"{CUBE.replace('red', 'cyan')} {BALL} {SETTING}")
    assert got["object_recall"] == 0.5
    assert got["hallucinated"] == 0.5


def test_an_object_without_colour_is_not_recalled_but_not_invented_either() -> None:
    got = figures("A cube stands on the right at the back.")
    assert got["object_recall"] == 0
    assert got["hallucinated"] == 0


def test_an_unreadable_sentence_counts_as_false() -> None:
    got = figures(f"{CUBE} {BALL} {SETTING} Gray gray the of cube.")
    assert got["precision"] == pytest.approx(12 / 13)
    assert got["readable"] == pytest.approx(3 / 4)
    assert got["flawless"] == 0


def test_a_fact_stated_twice_counts_once() -> None:
    once = figures(CUBE)["recall"]
    assert once == pytest.approx(5 / 12)
    assert figures(f"{CUBE} The red cube is small.")["recall"] == once
    # A second red cube is another object, which is not there.
    assert figures(f"{CUBE} {CUBE}")["recall"] == once
    assert figures(f"{CUBE} {CUBE}")["hallucinated"] == 0.5


def test_an_empty_caption_says_nothing() -> None:
    got = figures("")
    assert math.isnan(got["precision"])
    assert (got["recall"], got["readable"], got["flawless"], got["words"]) == (0, 0, 0, 0)


@pytest.mark.parametrize("write", [short_caption, long_caption])
def test_true_captions_are_perfect_and_those_of_other_scenes_are_not(
    write: Callable[[Scene, np.random.Generator], str],
) -> None:
    scenes = [sample_scene(seed, "test") for seed in range(40)]
    captions = [write(scene, np.random.default_rng(i)) for i, scene in enumerate(scenes)]
    mine = caption_figures(captions, scenes, seed=0)
    assert mine["precision"].value == mine["recall"].value == mine["object_recall"].value == 1
    assert mine["readable"].value == mine["flawless"].value == 1
    others = caption_figures([captions[-1], *captions[:-1]], scenes, seed=0)
    assert others["precision"].value < 0.4
    assert others["object_recall"].value < 0.3
    assert others["hallucinated"].value > 0.7


def test_captions_are_counted_together() -> None:
    got = caption_figures([f"{CUBE} {BALL} {SETTING}", ""], [SCENE, SCENE], 0, [True, False])
    assert got["recall"].value == 0.5
    assert got["precision"].value == 1
    assert got["ended"].value == 0.5
