"""`vlv eval compose` on a tiny untrained model, and its counting on scenes made by hand."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from vlv.errors import ConfigError
from vlv.evaluation.report.heat_map import heat_map
from vlv.evaluation.results import Result, read_result
from vlv.evaluation.tables.compose import (
    ComposeConfig,
    default_splits,
    evaluate,
    pair_ratios,
    pairs_of,
)
from vlv.models.vlv import joined
from vlv.world.inspector import Detected, Inspection
from vlv.world.scene import Scene, SceneObject, sample_scene

COUNT = 8
SVG = "{http://www.w3.org/2000/svg}"
CUBE = SceneObject("cube", "red", "small", "matte", x=0.5, z=0.5, rotation=0.2)
CONE = SceneObject("cone", "blue", "large", "shiny", x=-0.5, z=0.0, rotation=0.9)
BALL = SceneObject("sphere", "green", "large", "matte", x=0.0, z=0.9, rotation=0.0)
A = Scene("gray", "left", (CUBE, CONE))
B = Scene("brown", "right", (BALL,))


def look(floor: str, light: str, *objects: SceneObject) -> Inspection:
    return Inspection(floor, light, tuple(Detected(**vars(o), confidence=0.9) for o in objects))


@pytest.fixture(scope="module")
def config(model_dir: Path) -> ComposeConfig:
    # The package's inspector, which sees what is there.
    return ComposeConfig(
        model=str(model_dir),
        count=COUNT,
        splits=((8, 0), (5, 3), (2, 2), (0, 8)),
        num_inference_steps=1,
        device="cpu",
    )


@pytest.fixture(scope="module")
def result(config: ComposeConfig) -> Result:
    return evaluate(config)


def values(result: Result, **labels: Any) -> dict[str, float]:
    row = result.row(**{name.replace("_", " "): value for name, value in labels.items()})
    return {name: figure.value for name, figure in row.figures.items()}


class TestCounting:
    def ratios(self, *seen: Inspection) -> dict[str, float]:
        ratios = pair_ratios(seen, [(A, B)] * len(seen))
        return {name: ratio.over.sum() / ratio.under.sum() for name, ratio in ratios.items()}

    def test_each_scene_by_itself(self) -> None:
        of_a = {"objects_of_a", "all_of_a", "floor_of_a"}
        of_b = {"objects_of_b", "floor_of_b", "light_of_b"}
        got = self.ratios(look("gray", "left", CUBE, CONE))
        assert {name for name, value in got.items() if value == 1} == of_a
        got = self.ratios(look("brown", "right", BALL))
        assert {name for name, value in got.items() if value == 1} == of_b

    def test_success_takes_all_objects_of_a_and_the_floor_of_b(self) -> None:
        assert self.ratios(look("brown", "left", CONE, CUBE, BALL))["joint"] == 1
        assert self.ratios(look("brown", "right", CONE))["joint"] == 0
        assert self.ratios(look("green", "right", CONE, CUBE))["joint"] == 0
        assert self.ratios(look("gray", "left", BALL))["joint_reversed"] == 1

    def test_shares_are_over_all_pairs(self) -> None:
        got = self.ratios(look("brown", "left", CUBE), look("black", "right", CUBE, CONE))
        assert got == {
            "joint": 0,
            "objects_of_a": 3 / 4,
            "floor_of_b": 1 / 2,
            "light_of_b": 1 / 2,
            "objects_of_b": 0,
            "floor_of_a": 0,
            "all_of_a": 1 / 2,
            "joint_reversed": 0,
        }


class TestPairs:
    def test_the_next_scene_that_has_nothing_in_common(self) -> None:
        same_light, same_floor = replace(B, light="left"), replace(B, floor="gray")
        same_object = replace(B, objects=(CUBE, BALL))
        assert pairs_of([A, same_light, same_floor, same_object, B]) == [(0, 4), (4, 0)]

    def test_no_object_has_the_colour_of_the_other_floor(self) -> None:
        on_green = Scene("green", "left", (CUBE,))
        assert pairs_of([on_green, B]) == pairs_of([B, on_green]) == []
        assert pairs_of([on_green, replace(B, objects=(CONE,))]) == [(0, 1), (1, 0)]

    def test_pairs_of_held_out_scenes(self) -> None:
        scenes = [sample_scene(seed, "test") for seed in range(30)]
        pairs = pairs_of(scenes)
        assert len(pairs) > 25
        assert [a for a, _ in pairs] == sorted({a for a, _ in pairs})
        for a, b in pairs:
            assert scenes[a].floor != scenes[b].floor
            assert scenes[a].light != scenes[b].light


class TestSplits:
    def test_the_grid_of_the_papers_model(self) -> None:
        assert default_splits(77) == (
            *((7, 70), (21, 56), (35, 42), (49, 28), (63, 14), (70, 7)),
            *((21, 21), (35, 21), (49, 14)),
        )

    @pytest.mark.parametrize("queries", [8, 16, 32])
    def test_the_grid_fits_any_model(self, queries: int) -> None:
        assert all(0 < a + b <= queries for a, b in default_splits(queries))

    def test_which_embeddings_are_kept(self) -> None:
        a, b = torch.arange(8.0).reshape(1, 8, 1), torch.arange(10.0, 18.0).reshape(1, 8, 1)
        leading = joined(a, b, 2, 3, "leading")
        assert leading.flatten().tolist() == [0, 1, 10, 11, 12]
        trailing = joined(a, b, 5, 3, "trailing")
        assert trailing.flatten().tolist() == [0, 1, 2, 3, 4, 15, 16, 17]
        assert torch.equal(joined(a, b, 8, 0, "trailing"), a)

    @pytest.mark.parametrize("split", [(9, 0), (0, 0), (0, 9)])
    def test_more_than_there_is_is_refused(
        self, config: ComposeConfig, split: tuple[int, int]
    ) -> None:
        with pytest.raises(ConfigError, match=rf"{split[0]} \+ {split[1]} .* has 8"):
            evaluate(config.model_copy(update={"splits": (split,)}))

    def test_two_scenes_are_too_few(self, config: ComposeConfig) -> None:
        with pytest.raises(ConfigError, match="raise count"):
            evaluate(config.model_copy(update={"count": 2, "seed": 2}))


class TestTable:
    def test_rows(self, result: Result) -> None:
        orders = ("A + B, leading", "A + B, trailing")
        splits = [(row.labels["drawn from"], row.labels.get("keep A")) for row in result.rows]
        assert splits == [
            *((order, keep) for order in orders for keep in (8, 5, 2, 0)),
            *((f"{name} alone", None) for name in "AB"),
            *((f"control: shuffled, {order}", None) for order in ("leading", "trailing")),
            ("true captions of both", None),
            ("true renders of both", None),
        ]
        assert len({row.count for row in result.rows}) == 1
        assert len(result.claims) == 2

    def test_all_of_one_scene_is_that_scene_alone(self, result: Result) -> None:
        for order in ("leading", "trailing"):
            for keep, name in ((8, "A"), (0, "B")):
                got = values(result, drawn_from=f"A + B, {order}", keep_A=keep)
                assert got == values(result, drawn_from=f"{name} alone")

    def test_true_renders_are_what_is_wanted(self, result: Result) -> None:
        got = values(result, drawn_from="true renders of both")
        assert {name for name, value in got.items() if value == 1} == {
            *("joint", "objects_of_a", "all_of_a", "floor_of_b", "light_of_b")
        }
        assert got["floor_of_a"] == got["joint_reversed"] == 0

    def test_the_heat_map_shows_shares_as_percents(self, result: Result) -> None:
        texts = [text.text for text in ElementTree.fromstring(heat_map(result)).iter(f"{SVG}text")]
        row = result.row(**{"drawn from": "A alone"})
        for name in ("floor_of_a", "floor_of_b", "light_of_b"):
            assert f"{100 * row.figures[name].value:.0f}" in texts
        assert texts.count("all of A") == 2
        assert {"5 + 3", "2 + 2", "A's objects", "B's light"} <= set(texts)
        fewer = replace(result, rows=[r for r in result.rows if "trailing" not in str(r.labels)])
        assert heat_map(fewer).count(">all of A<") == 1
        with pytest.raises(ConfigError, match="not of vqa"):
            heat_map(replace(result, name="vqa"))


def test_the_command_writes_what_the_heat_map_reads(
    vlv: Callable[..., Any], model_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "compose.json"
    ran = vlv(
        *("eval", "compose", f"model={model_dir}", f"count={COUNT}", "num_inference_steps=1"),
        *("splits=[[5,3]]", "orders=[leading]", "device=cpu", "--output", output),
    )
    assert ran.code == 0, ran.err
    assert "Leading embeddings of two images" in ran.out
    assert json.loads(output.read_text())["provenance"]["config"]["splits"] == [[5, 3]]
    assert ">5 + 3<" in heat_map(read_result(output))
