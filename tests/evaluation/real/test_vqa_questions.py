"""Files of questions and answers: which ids they may have, and what is said of others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlv.errors import DatasetError
from vlv.evaluation.real.vqa_questions import VQAQuestion, read_questions

QUESTION = {"question_id": 1, "image_id": 7, "question": "What colour is it?"}
ANSWER = {"question_id": 1, "image_id": 7, "answers": [{"answer": "red"}]}


def read(folder: Path, questions: list[Any], annotations: list[Any]) -> list[VQAQuestion]:
    asked, answered = folder / "questions.json", folder / "annotations.json"
    asked.write_text(json.dumps({"questions": questions}))
    answered.write_text(json.dumps({"annotations": annotations}))
    return read_questions(asked, answered)


@pytest.mark.parametrize("id_", [[1], {"a": 1}, None, True, 1.5, float("inf"), "one", "9" * 5000])
@pytest.mark.parametrize("file", ["questions", "annotations"])
def test_an_id_that_is_no_whole_number_is_named(tmp_path: Path, id_: Any, file: str) -> None:
    entries = {"questions": [QUESTION], "annotations": [ANSWER]}
    entries[file] = [{**entries[file][0], "question_id": id_}]
    with pytest.raises(
        DatasetError, match=rf"{file}\.json has the question_id .*; give each"
    ) as of:
        read(tmp_path, **entries)
    assert len(str(of.value)) < 400


@pytest.mark.parametrize("id_", [float("inf"), float("nan"), [7], None, False])
def test_an_image_that_is_neither_number_nor_name_is_named(tmp_path: Path, id_: Any) -> None:
    with pytest.raises(DatasetError, match=r"questions\.json has the image_id .*; give the image"):
        read(tmp_path, [{**QUESTION, "image_id": id_}], [ANSWER])


@pytest.mark.parametrize("same", [1, "1", 1.0])
def test_two_questions_with_one_id_are_refused_unless_they_are_one(
    tmp_path: Path, same: Any
) -> None:
    """One answer would count for both."""
    other = {**QUESTION, "question_id": same, "question": "How many are there?"}
    with pytest.raises(DatasetError, match=r"two questions with the question_id 1 that differ"):
        read(tmp_path, [QUESTION, other], [ANSWER])
    answer = {**ANSWER, "question_id": same, "answers": [{"answer": "blue"}]}
    with pytest.raises(DatasetError, match=r"two annotations with the question_id 1 that differ"):
        read(tmp_path, [QUESTION], [ANSWER, answer])
    (found,) = read(tmp_path, [QUESTION] * 2, [ANSWER] * 2)
    assert (found.id, found.image, found.answers) == (1, 7, ("red",))


def test_a_command_says_it_in_one_sentence(vlv: Callable, tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        read(tmp_path, [QUESTION], [{**ANSWER, "question_id": [1]}])
    (tmp_path / "set").mkdir()
    (tmp_path / "a.jsonl").write_text('{"file_name": "7.jpg", "text": "A ball."}')
    files = [f"--{name}={tmp_path / name}.json" for name in ("questions", "annotations")]
    asked = (*files, "--captions", tmp_path / "a.jsonl", "--output", tmp_path / "out")
    ran = vlv(
        "eval",
        "vqa",
        tmp_path / "set",
        *asked,
        "--base-url",
        "http://localhost:1/v1",
        "--model",
        "m",
    )
    assert ran.code == 1 and "annotations.json has the question_id [1]" in ran.err
