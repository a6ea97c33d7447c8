"""Labels of sentences, in the forms of the benchmarks."""

import io
import json
import runpy
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from vlv.data.world_sets import render_world, world_samples
from vlv.errors import DatasetError
from vlv.evaluation.real.sentence_labels import Labels, read_labels
from vlv.sentences import split_sentences

ROOT = Path(__file__).resolve().parents[3]


def labels_of(folder: Path, *records: dict[str, Any]) -> Labels:
    file = folder / "labels.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in records))
    return read_labels(file)


def labelled(labels: Labels, image: str) -> list[tuple[str, bool | None]]:
    (caption,) = labels.by_image[image]
    return [(caption.text[one.start : one.end], one.true) for one in caption.sentences]


def test_the_majority_of_raters_counts_and_a_sentence_without_a_claim_has_no_label(
    tmp_path: Path,
) -> None:
    """The three sentences of the example of DOCCI-Critique, and two that nobody can count."""
    five = [True] * 5
    found = labels_of(
        tmp_path,
        {
            "file_name": "car.jpg",
            "captioner": "a VLM",
            "sentences": [
                {"text": "There is a mural.", "claim": five, "factual": five},
                {
                    "text": "It has a 16.",
                    "claim": five,
                    "factual": [True, True, False, False, True],
                },
                {
                    "text": "It has a flag.",
                    "claim": five,
                    "factual": [False, True, False, False, True],
                },
                {"text": "It inspires.", "claim": [False] * 3 + [True] * 2, "factual": five},
                {"text": "It is red.", "factual": [True, False, None]},
            ],
        },
    )
    assert labelled(found, "car.jpg") == [
        ("There is a mural.", True),
        ("It has a 16.", True),
        ("It has a flag.", False),
        ("It inspires.", None),
        ("It is red.", None),
    ]
    assert found.unlabelled == 2 and found.captioners == ["a VLM"]


def test_a_sentence_with_a_wrong_passage_is_false_and_the_others_are_true(tmp_path: Path) -> None:
    """The form of HalDec-Bench: the passages that people marked."""
    text = "These stickers show California and Route 66. A suitcase stands below."
    found = labels_of(
        tmp_path,
        {"file_name": "a.jpg", "text": text, "wrong": ["Route 66"]},
        {"file_name": "b.jpg", "text": text, "wrong": []},
        {"file_name": "c.jpg", "text": "One. Two to me.", "factual": False},
    )
    first, second = text.split(". ")
    assert labelled(found, "a.jpg") == [(first + ".", False), (second, True)]
    assert [true for _, true in labelled(found, "b.jpg")] == [True, True]
    # What people judged as one sentence is one, however it is punctuated.
    assert labelled(found, "c.jpg") == [("One. Two to me.", False)]


def test_empty_sentences_are_named_and_count_for_nothing(tmp_path: Path) -> None:
    found = labels_of(
        tmp_path,
        {"file_name": "a.jpg", "text": "  ", "wrong": []},
        {"file_name": "b.jpg", "sentences": [{"text": " ", "factual": True}]},
        {
            "file_name": "c.jpg",
            "sentences": [{"text": "", "factual": False}, {"text": "A cat.", "factual": True}],
        },
    )
    assert list(found.by_image) == ["c.jpg"] and labelled(found, "c.jpg") == [("A cat.", True)]
    assert [one.partition(" of ")[0] for one in found.without_words] == [
        "line 1",
        "line 2",
        "line 3",
    ]
    assert "1 of 2 sentences have no words" in found.without_words[2]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "A cat.", "factual": True}, "has no file_name; each line is"),
        ({"file_name": "a.jpg"}, "no sentences and no text"),
        ({"file_name": "a.jpg", "text": "A cat."}, "neither factual nor a list"),
        ({"file_name": "a.jpg", "text": "A cat.", "wrong": ["dog"]}, "does not occur"),
        ({"file_name": "a.jpg", "text": "A cat.", "wrong": [""]}, "does not occur"),
        ({"file_name": "a.jpg", "text": "A cat.", "factual": 1}, "true, false, null"),
        ({"file_name": "a.jpg", "text": "A cat.", "factual": None}, "no sentence of"),
        ({"file_name": "a.jpg", "sentences": [{"factual": True}]}, "without text"),
        ({"file_name": "a.jpg", "sentences": ["A cat."], "factual": True}, "no sentences"),
    ],
)
def test_another_form_is_refused_in_a_sentence(
    tmp_path: Path, record: dict[str, Any], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        labels_of(tmp_path, record)


def test_a_caption_is_labelled_once(tmp_path: Path) -> None:
    one = {"file_name": "a.jpg", "text": "A cat.", "factual": True}
    with pytest.raises(DatasetError, match=r"line 2 of .* stood before"):
        labels_of(tmp_path, one, one | {"factual": False})
    both = labels_of(tmp_path, one, one | {"captioner": "another"})
    assert len(both.by_image["a.jpg"]) == 2


def test_labels_of_rendered_scenes_are_what_the_scenes_hold(tmp_path: Path) -> None:
    """By the script whose labels the demonstration in the docs has."""
    scenes = tmp_path / "scenes"
    render_world(world_samples(2), scenes)
    captions = (scenes / "metadata.jsonl").read_text()
    first, *others = split_sentences(json.loads(captions.splitlines()[0])["text"])
    assert "black floor" in first
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text(captions.replace("black floor", "white floor"))
    printed = io.StringIO()
    with redirect_stdout(printed), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["world_labels.py", str(scenes), str(wrong)])
        runpy.run_path(str(ROOT / "benchmarks" / "world_labels.py"), run_name="__main__")
    (tmp_path / "labels.jsonl").write_text(printed.getvalue())
    labels = read_labels(tmp_path / "labels.jsonl").by_image
    truths = [[one.true for one in caption.sentences] for (caption,) in labels.values()]
    assert truths[0] == [False] + [True] * len(others) and all(truths[1])
