"""`vlv eval verify` at a small size."""

import math
from itertools import islice

import pytest
from tests.shared import shared_result

from vlv.errors import ConfigError
from vlv.evaluation.bench import Bench
from vlv.evaluation.metrics.sentence_scores import SCORES, auroc
from vlv.evaluation.results import Result, Row, from_json, silent, to_json
from vlv.evaluation.tables import verify_ood
from vlv.evaluation.tables.verify import VerifyConfig, evaluate
from vlv.training.config import load_config

KINDS = 3
CONFIG = VerifyConfig(
    count=2,
    errors=("floor", "color"),
    best_of=2,
    others=1,
    num_inference_steps=2,
    num_threads=1,
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return shared_result(tmp_path_factory, "verify", measure)


def measure() -> Result:
    """With the first kinds of out-of-distribution sentences and pictures; the slow test has all."""
    sentences, pictures = verify_ood.OTHER_SENTENCES, verify_ood.other_pictures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify_ood, "OTHER_SENTENCES", dict(islice(sentences.items(), KINDS)))
        patch.setattr(verify_ood, "other_pictures", lambda: dict(islice(pictures().items(), KINDS)))
        return evaluate(CONFIG)


def test_every_part_of_the_table_is_there(result) -> None:
    parts = [row.labels["part"] for row in result.rows]
    assert parts.count("scores, own captions") == len(SCORES)
    assert parts.count("levels of noise") == 3
    assert parts.count("captions") == 7
    assert {"errors", "reliability, own captions"} <= set(parts)
    assert from_json(to_json(result)).rows[0].labels == result.rows[0].labels


def test_other_sentences_and_pictures_are_checked_and_not_called_supported(result) -> None:
    rows = [
        row for row in result.rows if row.labels["part"] in ("other sentences", "other pictures")
    ]
    assert len(rows) > 2 * KINDS
    check_not_supported(rows)
    judged = {r.labels["what"]: r.figures for r in result.rows if r.labels["part"] == "judged"}
    assert set(judged) == {"own captions", "color", "floor"}
    assert len(result.claims) == 3


def check_not_supported(rows: list[Row]) -> None:
    for part in ("other sentences", "other pictures"):
        (total,) = [r for r in rows if r.labels["part"] == part and r.labels["what"] == "all"]
        assert total.figures["supported"].value <= 0.02
        assert total.figures["cannot_judge"].value >= 0.9


@pytest.mark.slow
def test_no_kind_of_other_sentence_or_picture_is_called_supported() -> None:
    rows = verify_ood.ood_rows(Bench(CONFIG, silent), 1, CONFIG.seed)
    assert len(rows) > 20
    check_not_supported(rows)


def test_planted_errors_are_false_sentences_among_true_ones(result) -> None:
    planted = [
        row
        for row in result.rows
        if row.labels["part"] == "errors" and "own" not in row.labels["what"]
    ]
    assert planted
    for row in planted:
        assert 0 < row.figures["true_share"].value < 1 or row.count == 1


def test_only_the_errors_asked_for_are_planted(result) -> None:
    kinds = [row.labels["what"] for row in result.rows if row.labels["part"] == "errors"]
    assert kinds == ["own captions", "color", "floor"]


def test_an_unknown_error_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no such error: \['colour'\]; there are color, shape"):
        load_config(VerifyConfig, None, ["errors=[colour]"])


def test_captions_selected_by_truth_are_a_ceiling(result) -> None:
    rows = {
        row.labels["what"]: row.figures for row in result.rows if row.labels["part"] == "captions"
    }
    ceiling = rows["best of 2 by truth (ceiling)"]["precision"].value
    assert ceiling >= rows["one sample"]["precision"].value - 1e-9


def test_auroc_is_the_chance_that_the_false_one_scores_higher() -> None:
    assert auroc([0.0, 1.0], [2.0]) == 1
    assert auroc([0.0, 2.0], [1.0]) == 0.5
    assert auroc([1.0], [1.0]) == 0.5
    assert math.isnan(auroc([], [1.0]))
