"""`vlv eval bottleneck`: probes on made-up features, features of a tiny model, and the table of
the packaged model.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vlv.evaluation.bench import held_out_scenes
from vlv.evaluation.metrics.probes import Components, Fact, probe
from vlv.evaluation.metrics.statistics import Ratio
from vlv.evaluation.results import silent
from vlv.evaluation.tables.bottleneck import SOURCES, facts_of, features
from vlv.pipeline import VLV
from vlv.world.scene import Scene, SceneObject

RNG = np.random.default_rng(0)
X = RNG.standard_normal((200, 6))
WORDS = (X[:, :3] > 0).astype(np.float64)
KINDS = {
    "class": Fact("class", np.eye(3)[X[:, :3].argmax(axis=1)]),
    "presence": Fact("presence", WORDS),
    "number": Fact("number", X[:, :2] @ np.array([[1.0, 20.0], [-1.0, 5.0]]) + 7),
}


def value(ratio: Ratio) -> float:
    return float(ratio.over.sum() / ratio.under.sum())


def rows(fact: Fact, part: slice) -> Fact:
    return replace(fact, values=fact.values[part])


LEARN, MEASURE = slice(0, 150), slice(150, 200)


class TestProbe:
    @pytest.mark.parametrize("kind", KINDS)
    def test_what_is_linear_is_read(self, kind: str) -> None:
        fact = KINDS[kind]
        got = value(probe(X[LEARN], rows(fact, LEARN), X[MEASURE], rows(fact, MEASURE)))
        assert got > (0.9999 if kind == "number" else 0.75)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_guess_is_worth_nothing(self, kind: str) -> None:
        fact = KINDS[kind]
        blind = np.zeros((200, 4))
        assert value(probe(blind, fact, blind, fact)) == pytest.approx(0, abs=1e-9)

    @pytest.mark.parametrize("kind", KINDS)
    def test_features_of_others_are_worth_about_nothing(self, kind: str) -> None:
        fact = KINDS[kind]
        other = np.roll(X, 1, axis=0)
        got = value(probe(other[LEARN], rows(fact, LEARN), X[MEASURE], rows(fact, MEASURE)))
        assert -0.2 < got < 0.2

    def test_a_rare_word_counts_as_much_as_its_absence(self) -> None:
        # Two of ten are there; the feature tells one of the two and all of the absent.
        there = np.array([1.0, 1, 0, 0, 0, 0, 0, 0, 0, 0])[:, None]
        seen = np.array([1.0, 0, 0, 0, 0, 0, 0, 0, 0, 0])[:, None]
        learn = Fact("presence", np.tile(there, (10, 1)))
        ratio = probe(np.tile(there, (10, 1)), learn, seen, Fact("presence", there))
        assert value(ratio) == pytest.approx(2 * (0.5 + 1) / 2 - 1)

    def test_samples_without_the_fact_count_nothing(self) -> None:
        fact = KINDS["number"]
        holes = Fact("number", np.where(np.arange(200)[:, None] % 2 == 0, fact.values, np.nan))
        ratio = probe(X, holes, X, holes)
        assert np.flatnonzero(ratio.under).tolist() == list(range(0, 200, 2))
        assert value(ratio) > 0.9999

    def test_what_never_changes_is_left_out(self) -> None:
        known = KINDS["presence"].values
        with_constant = Fact("presence", np.column_stack([known, np.zeros(200)]))
        one = probe(X, KINDS["presence"], X, KINDS["presence"])
        two = probe(X, with_constant, X, with_constant)
        assert np.array_equal(one.over, two.over)
        alone = Fact("presence", np.zeros((200, 1)))
        assert not probe(X, alone, X, alone).under.any()

    def test_the_ridge_keeps_noise_from_being_learned(self) -> None:
        noise = np.random.default_rng(1).standard_normal((60, 50))
        fact = Fact("number", np.random.default_rng(2).standard_normal((60, 1)))
        learn, measure = slice(0, 30), slice(30, 60)
        got = value(probe(noise[learn], rows(fact, learn), noise[measure], rows(fact, measure)))
        assert -0.25 < got < 0.25


class TestComponents:
    @pytest.mark.parametrize("shape", [(40, 10), (10, 40)])
    def test_are_those_of_a_singular_value_decomposition(self, shape: tuple[int, int]) -> None:
        x = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
        left, values, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
        got = Components(x, 4)(x)
        assert np.abs(got) == pytest.approx(np.abs(left * values)[:, :4], abs=1e-4)

    def test_no_more_than_there_are(self) -> None:
        x = np.outer(np.arange(9), [1, 2, 3]).astype(np.float32)
        assert Components(x, 4)(x).shape == (9, 1)


def test_facts_of_a_scene() -> None:
    cube = SceneObject("cube", "red", "large", "matte", x=0.5, z=0.25, rotation=math.pi / 8)
    cone = SceneObject("cone", "blue", "large", "shiny", x=-0.1, z=0.75, rotation=0.9)
    facts = facts_of([Scene("brown", "right", (cube, cone)), Scene("gray", "left", (cone,))])
    got = {name.removeprefix("read_"): fact.values.tolist() for name, fact in facts.items()}
    assert got["floor"] == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert got["light"] == [[0, 1], [1, 0]]
    assert got["count"] == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert got["shapes"] == [[0, 1, 0, 1], [0, 0, 0, 1]]
    assert got["colors"][0] == [1, 0, 1, 0, 0, 0, 0, 0]
    assert [sum(row) for row in got["pairs"]] == [2, 1]
    assert (got["large"], got["shiny"]) == ([[2], [1]], [[1], [1]])
    assert got["centre"] == [pytest.approx([0.2, 0.5]), [-0.1, 0.75]]
    assert np.isnan(got["place"][0]).all() and got["place"][1] == [-0.1, 0.75]
    assert got["rotation"][0] == pytest.approx([0, 1])
    assert np.isnan(got["rotation"][1]).all()


@torch.no_grad()
def test_features_are_what_passes_through_the_model(model: VLV) -> None:
    data = held_out_scenes(3)
    got = {
        name: torch.from_numpy(one) for name, one in features(model, data, 2, silent, "").items()
    }
    images = [Image.fromarray(one) for one in data.renders]
    assert set(got) == set(SOURCES)
    assert torch.equal(got["pixels"] * 255, torch.from_numpy(data.renders).float())
    tokens = model.encoder.florence.get_image_features(model.encoder.preprocess(images))
    torch.testing.assert_close(got["v'"], tokens.pooler_output)
    torch.testing.assert_close(got["z"], model.encode(images))
    torch.testing.assert_close(got["z"], model.encoder.phi(got["h"]))
    torch.testing.assert_close(got["c"], model.condition(got["z"]).tokens)
    assert not model.encoder.phi._forward_pre_hooks
    assert not model.encoder.florence.multi_modal_projector._forward_hooks


def test_the_packaged_model_tells_floor_and_light_and_others_do_not(
    vlv: Callable[..., Any], tmp_path: Path
) -> None:
    output = tmp_path / "bottleneck.json"
    ran = vlv(
        *("eval", "bottleneck", "count=20", "train_count=80", "position_blocks=2"),
        *("device=cpu", "--output", output),
    )
    assert ran.code == 0, ran.err
    assert "The frozen text tower T loses nothing of z" in ran.out
    data = json.loads(output.read_text())
    figures = {
        (row["labels"]["read from"], row["labels"].get("first position")): row["figures"]
        for row in data["rows"]
    }
    control, parts = "control: z of other scenes", [("part of z", 0), ("part of z", 39)]
    assert list(figures) == [
        *((words, None) for words in SOURCES.values()),
        (control, None),
        *parts,
    ]
    for words in ("embeddings z", "conditioning c"):
        for fact in ("read_floor", "read_light"):
            assert figures[words, None][fact]["value"] > 0.8
        means = [figures[one, None]["mean_score"]["value"] for one in (words, control)]
        assert means[0] > means[1] + 0.3
