"""`vlv eval verify` at a small size."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tests.tiny import quick_verifier_dir

from vlv.errors import ConfigError
from vlv.evaluation.bench import Bench
from vlv.evaluation.metrics.sentence_scores import SCORES
from vlv.evaluation.results import Result, from_json, to_json
from vlv.evaluation.tables.verify import VerifyConfig, evaluate
from vlv.training.config import load_config
from vlv.training.verifier import sampled_captions
from vlv.verification.verify import verify_caption

__all__ = ["quick_verifier_dir"]


@pytest.fixture(scope="module")
def result() -> Result:
    """Takes a minute, so its tests are nightly; the quick report of .ci/run has the table too."""
    return evaluate(
        VerifyConfig(
            count=2, errors=("color",), best_of=2, others=1, num_inference_steps=2, num_threads=1
        )
    )


@pytest.mark.slow
def test_every_part_of_the_table_is_there(result) -> None:
    parts = [row.labels["part"] for row in result.rows]
    assert parts.count("scores, own captions") == len(SCORES)
    assert parts.count("levels of noise") == 3
    assert parts.count("captions") == 7
    assert {"errors", "reliability, own captions"} <= set(parts)
    assert from_json(to_json(result)).rows[0].labels == result.rows[0].labels


@pytest.mark.slow
def test_other_sentences_and_pictures_are_checked_and_not_called_supported(result) -> None:
    """In the shipped model; tests/verification/test_marking.py has some of each kind."""
    rows = [
        row for row in result.rows if row.labels["part"] in ("other sentences", "other pictures")
    ]
    assert len(rows) > 20
    for part in ("other sentences", "other pictures"):
        (total,) = [r for r in rows if r.labels["part"] == part and r.labels["what"] == "all"]
        assert total.figures["supported"].value <= 0.02
        assert total.figures["cannot_judge"].value >= 0.9
    judged = {r.labels["what"]: r.figures for r in result.rows if r.labels["part"] == "judged"}
    assert set(judged) == {"own captions", "color"}
    assert len(result.claims) == 3


@pytest.mark.slow
def test_planted_errors_are_false_sentences_among_true_ones(result) -> None:
    planted = [
        row
        for row in result.rows
        if row.labels["part"] == "errors" and "own" not in row.labels["what"]
    ]
    assert planted
    for row in planted:
        assert 0 < row.figures["true_share"].value < 1 or row.count == 1


@pytest.mark.slow
def test_only_the_errors_asked_for_are_planted(result) -> None:
    kinds = [row.labels["what"] for row in result.rows if row.labels["part"] == "errors"]
    assert kinds == ["own captions", "color"]


def test_an_unknown_error_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no such error: \['colour'\]; there are color, shape"):
        load_config(VerifyConfig, None, ["errors=[colour]"])


@pytest.mark.slow
def test_captions_selected_by_truth_are_a_ceiling(result) -> None:
    rows = {
        row.labels["what"]: row.figures for row in result.rows if row.labels["part"] == "captions"
    }
    ceiling = rows["best of 2 by truth (ceiling)"]["precision"].value
    assert ceiling >= rows["one sample"]["precision"].value - 1e-9


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_marks_beside_a_refused_sentence_are_those_of_use(
    quick_verifier_dir: Path, tmp_path: Path
) -> None:
    """A verifier that has never read of floors and light refuses a part of most captions."""
    folder = shutil.copytree(quick_verifier_dir, tmp_path / "model")
    file = folder / "verifier" / "vlv_sentences.json"
    words = json.loads(file.read_text())["words"]
    change(file, words={word: n for word, n in words.items() if word not in ("floor", "light")})
    change(folder / "verifier" / "vlv_verifier.json", levels=[0.45])
    config = VerifyConfig(model=str(folder), count=2, planted=0, best_of=1, others=0, num_threads=1)
    bench = Bench(config)
    wanted = []
    for at in range(config.count):
        z, image = bench.z[at : at + 1], Image.fromarray(bench.data.renders[at])
        (caption,) = sampled_captions(bench.model, z, config.seed + at)
        wanted += verify_caption(bench.model, image, caption, z=z)
    judged = [mark.probability for mark in wanted if mark.probability is not None]
    assert 0 < len(judged) < len(wanted)

    rows = [row for row in evaluate(config).rows if "reliability" in str(row.labels["part"])]
    found = sum(row.count * row.figures["probability"].value for row in rows)
    assert found == pytest.approx(sum(judged))
