import json
import math
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlv.data.world_sets import world_samples
from vlv.errors import ConfigError, DatasetError
from vlv.evaluation.metrics.frechet import FrechetBootstrap
from vlv.evaluation.metrics.statistics import frechet_distance
from vlv.evaluation.results import Result, from_json
from vlv.evaluation.tables.fid import FIDConfig, evaluate, sources, unfit_captions
from vlv.pipeline import VLV

COUNT = 3
SOURCES = ["true", "model", "direct captioner", "model, first sentence", "model, another scene"]


@pytest.fixture(scope="module")
def true_captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The true captions as a captioner would have written them, in another order."""
    samples = list(world_samples(COUNT + 1))
    path = tmp_path_factory.mktemp("direct") / "metadata.jsonl"
    lines = [{"file_name": f"../set/{s.file_name}", "text": s.caption} for s in reversed(samples)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def config(model_dir: Path, inspector_dir: Path, true_captions: Path) -> FIDConfig:
    return FIDConfig(
        model=str(model_dir),
        inspector=inspector_dir,
        count=COUNT,
        num_inference_steps=1,
        num_beams=1,
        device="cpu",
        direct_captions=true_captions,
    )


@pytest.fixture(scope="module")
def result(config: FIDConfig) -> Result:
    return evaluate(config)


def test_a_row_a_source_and_scale(result: Result) -> None:
    rows = [(row.labels["captions"], row.labels["guidance"]) for row in result.rows]
    scales = (1.0, 2.0, 3.0, 4.0)
    assert rows == [(s, g) for s in SOURCES for g in scales] + [("empty", "any")]
    for row in result.rows:
        assert row.count == COUNT
        assert set(row.figures) == {"frechet", "f1", "centre_error", "unfit"}
        assert math.isfinite(row.figures["frechet"].low)


def test_the_same_captions_draw_the_same_pictures(result: Result) -> None:
    """All sources start from the same noise."""
    for scale in (1.0, 4.0):
        true = result.row(captions="true", guidance=scale).figures
        direct = result.row(captions="direct captioner", guidance=scale).figures
        assert repr(direct) == repr(true)  # NaN where nothing is found
    ends = [result.row(captions="true", guidance=scale).figures["frechet"] for scale in (1.0, 4.0)]
    assert ends[0] != ends[1]


def test_claims_are_differences_of_rows(result: Result) -> None:
    def value(source: str, scale: float, name: str = "frechet") -> float:
        return result.row(captions=source, guidance=scale).figures[name].value

    best = max((1.0, 2.0, 3.0, 4.0), key=lambda scale: value("true", scale, "f1"))
    par, *compared, none, more = result.claims
    gap = value("model", best, "f1") - value("true", best, "f1")
    assert par.difference.value == pytest.approx(gap + 0.02)
    assert len(compared) == 4
    for source, (f1, frechet) in zip(
        ("model, first sentence", "direct captioner"), (compared[:2], compared[2:]), strict=True
    ):
        gain = value("model", best, "f1") - value(source, best, "f1")
        assert f1.difference.value == pytest.approx(gain)
        nearer = value(source, best) - value("model", best)
        assert frechet.difference.value == pytest.approx(nearer)
    falls = [value(s, 1.0) - value(s, 2.0) for s in ("true", "model", "direct captioner")]
    assert none.difference.value in falls
    assert more.difference.value == pytest.approx(value("model", 4.0) - value("model", 2.0))


def test_what_was_not_drawn_is_not_claimed(config: FIDConfig) -> None:
    changes = {"direct_captions": None, "guidance_scales": (3.0,), "count": 2}
    found = evaluate(config.model_copy(update=changes))
    assert [row.labels["captions"] for row in found.rows] == [
        name for name in SOURCES if name != "direct captioner"
    ] + ["empty"]
    assert len(found.claims) == 3
    assert "direct captioner is left out" in found.notes[-1]


def test_sources_are_what_they_are_called() -> None:
    own = ["A red cube. The floor is gray.", "", "A cut senten"]
    found = sources(["t"] * 3, own)
    assert found["model, first sentence"] == ["A red cube.", "", "A cut senten"]
    assert found["model, another scene"] == ["A cut senten", own[0], ""]
    assert found["empty"] == ["", "", ""]
    assert "direct captioner" not in found


def test_captions_longer_than_the_text_tower_are_counted(model: VLV) -> None:
    words = " ".join(["red"] * 75)
    assert model.text_tower.tokenizer(words, return_length=True)["length"] == [77]
    assert unfit_captions(model.text_tower, ["", words, words + " red"]).tolist() == [0, 0, 1]


class TestFrechetBootstrap:
    features = np.random.default_rng(0).normal(size=(80, 4))

    def test_no_distance_from_themselves(self) -> None:
        figure = FrechetBootstrap(self.features, seed=0).distance(self.features).figure()
        assert (figure.value, figure.low, figure.high) == pytest.approx((0, 0, 0), abs=1e-9)

    def test_a_shift_is_found_with_its_interval(self) -> None:
        frechet = FrechetBootstrap(self.features, seed=0)
        near = frechet.distance(self.features + 1)
        assert near.figure().value == pytest.approx(4)
        noise = np.random.default_rng(1).normal(size=self.features.shape)
        far = frechet.distance(self.features + 2 + 0.1 * noise)
        gap = far.minus(near)
        assert gap.value == pytest.approx(far.value - 4)
        assert gap.low < gap.value < gap.high
        assert gap.low > 0

    def test_the_value_lies_within_although_resamples_are_farther(self) -> None:
        others = np.random.default_rng(1).normal(size=self.features.shape)
        found = FrechetBootstrap(self.features, seed=0).distance(others)
        assert found.value == frechet_distance(others, self.features)
        assert found.resampled.mean() > found.value
        figure = found.figure()
        assert figure.low < figure.value < figure.high
        moved = replace(found, resampled=found.resampled + 1).figure()
        assert astuple(moved) == pytest.approx(astuple(figure))


class TestCommand:
    def test_from_the_command_line(
        self, vlv: Callable[..., Any], config: FIDConfig, result: Result, tmp_path: Path
    ) -> None:
        fields = config.model_dump(mode="json", include={*FIDConfig.model_fields} - {"num_threads"})
        sizes = {**fields, "count": 2, "guidance_scales": [2]}
        output = tmp_path / "fid.json"
        overrides = [f"{name}={json.dumps(value)}" for name, value in sizes.items()]
        ran = vlv("eval", "fid", *overrides, "--output", output)
        assert ran.code == 0, ran.err
        assert "Captions as prompts (Table 1)" in ran.out
        assert "does not fit %" in ran.out
        assert from_json(json.loads(output.read_text())).row(captions="empty").count == 2

    @pytest.mark.parametrize("scales", ["[0.5]", "[]"])
    def test_impossible_scales(self, vlv: Callable[..., Any], scales: str) -> None:
        ran = vlv("eval", "fid", f"guidance_scales={scales}")
        assert ran.code == 2
        assert "guidance_scales" in ran.err


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('{"file_name": "000000000.png", "text": "A cube."}\n', ConfigError, "000000001.png"),
        ('{"file_name": "000000000.png"}\n', ConfigError, "000000000.png"),
        ("A cube.\n", DatasetError, "line 1"),
    ],
)
def test_direct_captions_that_are_no_captions_of_the_scenes(
    config: FIDConfig, tmp_path: Path, text: str, error: type[Exception], message: str
) -> None:
    path = tmp_path / "metadata.jsonl"
    path.write_text(text)
    with pytest.raises(error, match=message):
        evaluate(config.model_copy(update={"direct_captions": path}))


def test_direct_captions_that_are_missing(config: FIDConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read direct_captions"):
        evaluate(config.model_copy(update={"direct_captions": tmp_path / "none.jsonl"}))
