"""`vlv eval arena`: the rubric, what counts as a hallucination, and the table."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.metrics.test_captions import BALL, CUBE, SCENE, SETTING

from vlv.evaluation.caption_sources import (
    EMPTY,
    FIRST_SENTENCE,
    OBJECTS_ONLY,
    OTHER_SCENE,
    OWN,
    TRUE_LONG,
    TRUE_SHORT,
)
from vlv.evaluation.metrics.columns import COLUMNS
from vlv.evaluation.results import Result
from vlv.evaluation.tables.arena import (
    GREEDY,
    ON_A_PAR,
    ArenaConfig,
    evaluate,
    hallucinations,
    rubric,
)

COUNT = 8
ALL = f"{CUBE} {BALL} {SETTING}"


@pytest.mark.parametrize(
    ("coverage", "false", "score"),
    [
        (1.0, 0, 6),
        (16 / 17, 0, 5),
        (0.8, 0, 5),
        (0.79, 0, 4),
        (0.5, 0, 4),
        (0.49, 0, 3),
        (0.1, 0, 3),
        (0.09, 0, 0),
        (0.0, 0, 0),
        (1.0, 1, 2),
        (0.5, 1, 2),
        (0.49, 1, 1),
        (0.1, 1, 1),
        (0.09, 1, 0),
        (1.0, 2, 0),
        (1.0, 7, 0),
    ],
)
def test_the_rubric(coverage: float, false: int, score: int) -> None:
    assert rubric(coverage, false) == score


@pytest.mark.parametrize(
    ("caption", "number"),
    [
        (ALL, 0),
        ("", 0),
        # What is left out is no hallucination.
        (CUBE, 0),
        # A wrong fact is one.
        (ALL.replace("small", "large"), 1),
        (ALL.replace("on the right at the back", "on the left at the front"), 2),
        (ALL.replace("gray", "black"), 1),
        # An object that is not there is one, with its size, surface and place.
        (f"{ALL} A small matte green cone stands in the very middle.", 1),
        (ALL.replace("red", "cyan"), 1),
        (f"{ALL} There is a green cone. The cone is behind the red cube.", 1),
        (f"{ALL} There is a green cone. The red cube is behind the cone.", 1),
        # A second one of the same kind is not there either.
        (f"{CUBE} {CUBE}", 1),
        # Counts and relations.
        (f"{ALL} There are two objects in the picture.", 0),
        (f"{ALL} There are three objects in the picture.", 1),
        (f"{ALL} The cube is behind the sphere.", 0),
        (f"{ALL} The cube is in front of the sphere.", 1),
        # What cannot be read.
        (f"{ALL} Gray the of cube.", 1),
    ],
)
def test_hallucinations(caption: str, number: int) -> None:
    assert hallucinations(caption, SCENE) == number


@pytest.fixture(scope="module")
def result() -> Result:
    return evaluate(ArenaConfig(count=COUNT, num_beams=2, device="cpu"))


def figures(result: Result, captions: str) -> dict[str, float]:
    return {name: one.value for name, one in result.row(captions=captions).figures.items()}


def test_a_row_for_each_source_of_captions(result: Result) -> None:
    assert [row.labels["captions"] for row in result.rows] == [
        *(TRUE_LONG, TRUE_SHORT, OWN, FIRST_SENTENCE, OBJECTS_ONLY, OTHER_SCENE, EMPTY, GREEDY)
    ]
    for row in result.rows:
        assert row.count == COUNT
        assert row.figures.keys() <= COLUMNS.keys()


def test_the_share_of_each_score_makes_up_the_mean(result: Result) -> None:
    for row in result.rows:
        got = figures(result, str(row.labels["captions"]))
        assert sum(got[f"score_{score}"] for score in range(7)) == pytest.approx(1)
        assert got["score"] == pytest.approx(
            sum(score * got[f"score_{score}"] for score in range(7))
        )


def test_true_captions_are_perfect_and_nothing_is_nothing(result: Result) -> None:
    for captions in (TRUE_LONG, TRUE_SHORT):
        got = figures(result, captions)
        assert (got["score"], got["coverage"], got["hallucinations"]) == (6, 1, 0)
    got = figures(result, EMPTY)
    assert (got["score"], got["coverage"], got["hallucinations"]) == (0, 0, 0)


def test_own_captions_are_better_than_those_of_other_scenes(result: Result) -> None:
    own, other = figures(result, OWN), figures(result, OTHER_SCENE)
    assert own["score"] > other["score"]
    assert own["coverage"] > 0.7 > 0.3 > other["coverage"]
    assert own["hallucinations"] < 2 < other["hallucinations"]
    assert figures(result, OBJECTS_ONLY)["coverage"] < 0.2


def test_the_claims_are_differences_of_scores(result: Result) -> None:
    score = {row.labels["captions"]: row.figures["score"].value for row in result.rows}
    assert [claim.difference.value for claim in result.claims] == pytest.approx(
        [
            score[OWN] - score[TRUE_SHORT] + ON_A_PAR,
            score[OWN] - score[FIRST_SENTENCE],
            score[OWN] - score[OBJECTS_ONLY],
        ]
    )
    assert pytest.approx(5.23 - 5.18) == ON_A_PAR


def test_the_command(vlv: Callable[..., Any], model_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "arena.json"
    settings = (f"model={model_dir}", "count=3", "num_beams=1", "device=cpu")
    ran = vlv("eval", "arena", *settings, "--output", output)
    assert ran.code == 0, ran.err
    for words in ("Table 2", OWN, "hallucinations", "6: %", "num_beams=1", "contradicted"):
        assert words in ran.out
    rows = json.loads(output.read_text())["rows"]
    # With one beam own captions are greedy already.
    assert GREEDY not in [row["labels"]["captions"] for row in rows]
