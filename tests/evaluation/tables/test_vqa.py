"""`vlv eval vqa`: what captions of the packaged model, true ones and controls answer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlv.errors import CheckpointError
from vlv.evaluation.bench import held_out_scenes
from vlv.evaluation.caption_sources import (
    EMPTY,
    FIRST_SENTENCE,
    OBJECTS_ONLY,
    OTHER_SCENE,
    OWN,
    TRUE_LONG,
    TRUE_SHORT,
    first_sentence,
    objects_named,
)
from vlv.evaluation.metrics.columns import COLUMNS
from vlv.evaluation.results import Result, to_json
from vlv.evaluation.tables.vqa import MAJORITY, NEARLY, VQAConfig, evaluate
from vlv.world.language import QUESTION_KINDS, read_caption

COUNT, QUESTIONS = 12, 9


@pytest.fixture(scope="module")
def result() -> Result:
    return evaluate(
        VQAConfig(count=COUNT, questions_per_scene=QUESTIONS, num_beams=1, device="cpu", seed=3)
    )


def value(result: Result, captions: str, name: str = "accuracy") -> float:
    return result.row(captions=captions).figures[name].value


def test_a_row_for_each_source_of_captions_and_a_figure_for_each_kind(result: Result) -> None:
    assert [row.labels["captions"] for row in result.rows] == [
        *(TRUE_LONG, TRUE_SHORT, OWN, FIRST_SENTENCE, OBJECTS_ONLY, OTHER_SCENE, EMPTY, MAJORITY)
    ]
    for row in result.rows:
        assert row.count == COUNT * QUESTIONS
        assert list(row.figures) == [
            "accuracy",
            "abstained",
            *(f"{kind}_accuracy" for kind in QUESTION_KINDS),
        ]
        assert row.figures.keys() <= COLUMNS.keys()


@pytest.mark.parametrize("captions", [TRUE_LONG, TRUE_SHORT])
def test_true_captions_answer_everything_but_some_relations(result: Result, captions: str) -> None:
    for kind in QUESTION_KINDS:
        if kind != "relation":
            assert value(result, captions, f"{kind}_accuracy") == 1
    right, left_open = (value(result, captions, name) for name in ("accuracy", "abstained"))
    assert right + left_open == pytest.approx(1)


def test_captions_answer_as_far_as_they_go(result: Result) -> None:
    true, own = value(result, TRUE_SHORT), value(result, OWN)
    assert true >= own >= value(result, FIRST_SENTENCE)
    assert own > value(result, OBJECTS_ONLY) > value(result, EMPTY)
    assert own > value(result, OTHER_SCENE)
    assert own > value(result, MAJORITY)


TWO = "A small red cube is on the left, and a shiny blue sphere on the right. The floor is gray."


def test_parts_of_captions() -> None:
    assert first_sentence(TWO) == TWO.removesuffix(" The floor is gray.")
    assert first_sentence("The floor is") == "The floor is"
    assert objects_named(TWO) == "There is a red cube and a blue sphere."
    assert objects_named("An orange cone stands behind it.") == ""
    assert objects_named("There is an orange cone.") == "There is an orange cone."
    assert first_sentence("") == objects_named("") == ""


def test_objects_named_are_read_as_objects() -> None:
    named = read_caption(objects_named(f"{TWO} There is a cone at the front."))
    assert [(claim.kind, claim.color, claim.shape) for claim in named] == [
        ("object", "red", "cube"),
        ("object", "blue", "sphere"),
        ("object", None, "cone"),
    ]


def test_without_a_caption_nothing_is_there_and_nothing_known(result: Result) -> None:
    for kind in ("attribute", "relation", "floor", "light"):
        assert value(result, EMPTY, f"{kind}_accuracy") == 0
        # Names of objects tell no places either, nor floor and light.
        if kind != "attribute":
            assert value(result, OBJECTS_ONLY, f"{kind}_accuracy") == 0


def test_the_majority_is_the_chance_level(result: Result) -> None:
    scenes = held_out_scenes(COUNT, seed=3).scenes
    for fact in ("floor", "light"):
        words = [getattr(scene, fact) for scene in scenes]
        most = max(map(words.count, words))
        assert value(result, MAJORITY, f"{fact}_accuracy") == pytest.approx(most / COUNT)
    for kind in ("existence", "comparison", "relation"):
        assert value(result, MAJORITY, f"{kind}_accuracy") >= 0.5
    assert value(result, MAJORITY, "abstained") == 0


def test_the_claims_are_differences_of_accuracies(result: Result) -> None:
    own = value(result, OWN)
    assert [claim.difference.value for claim in result.claims] == pytest.approx(
        [
            own - value(result, TRUE_SHORT) + NEARLY,
            own - value(result, FIRST_SENTENCE),
            own - value(result, OBJECTS_ONLY),
            own - value(result, OTHER_SCENE),
        ]
    )
    assert [claim.verdict for claim in result.claims[2:]] == ["confirmed"] * 2


def test_the_same_config_gives_the_same_figures(
    model_dir: Path,
) -> None:
    def measured(**changes: Any) -> list[dict[str, Any]]:
        config = VQAConfig(model=str(model_dir), count=3, num_beams=1, device="cpu")
        rows: list[dict[str, Any]] = to_json(evaluate(config.model_copy(update=changes)))["rows"]
        return rows

    once = measured()
    assert once == measured()
    assert once != measured(seed=1)


def test_a_model_without_captioner_is_refused(stage1_dir: Path) -> None:
    with pytest.raises(CheckpointError, match="caption_decoder"):
        evaluate(VQAConfig(model=str(stage1_dir), count=2, device="cpu"))


def test_the_command(vlv: Callable[..., Any], model_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "vqa.json"
    settings = (f"model={model_dir}", "count=3", "num_beams=1", "questions_per_scene=4")
    ran = vlv("eval", "vqa", *settings, "device=cpu", "--output", output)
    assert ran.code == 0, ran.err
    for words in ("Table 3", OWN, "relation %", "abstained %", "contradicted", "single sentence"):
        assert words in ran.out
    data = json.loads(output.read_text())
    assert data["rows"][0]["count"] == 12
    assert data["provenance"]["config"]["questions_per_scene"] == 4
    ran = vlv("eval", "vqa", "questions_per_scene=31")
    assert ran.code == 2
    assert "questions_per_scene" in ran.err
