"""Sentence marks in the layouts of FiftyOne and Label Studio, and people's labels read back.

The layouts are those that `fiftyone` 1.22 and `label-studio-sdk` 2.1 read and write
(docs/integrations/sentence_marks.md).
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.tiny import plain

from vlv.errors import ConfigError
from vlv.inference.records import ImageInput
from vlv.integrations.sentence_marks.marks import Layout, write_marks
from vlv.integrations.sentence_marks.records import MarkedCaption
from vlv.verification.verdicts import SentenceSupport, Verified

CAPTION = "A red cube. The floor is gray. A cat."
SENTENCES = (
    SentenceSupport("A red cube.", 0, 11, 0.0, 0.5, 0.97, True, None, "supported"),
    SentenceSupport("The floor is gray.", 12, 30, -0.5, 0.0, 0.25, False, None, "unsupported"),
    SentenceSupport.not_judged("A cat.", 31, 37, "it says “cat”"),
)


@pytest.fixture
def marked(tmp_path: Path) -> list[MarkedCaption]:
    captions = []
    for name in ("a b.png", "c.png"):
        file = tmp_path / name
        plain("red").save(file)
        image = ImageInput.of_file(file)
        captions.append(MarkedCaption.of(image, Verified(image.name, CAPTION, SENTENCES, True)))
    return captions


def written(marked: list[MarkedCaption], layout: Layout, folder: Path) -> Any:
    write_marks(marked, layout, folder)
    name = "samples.json" if layout == "fiftyone" else "tasks.json"
    return json.loads((folder / name).read_text(encoding="utf-8"))


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_fiftyone_gets_a_classification_for_each_sentence(
    marked: list[MarkedCaption], tmp_path: Path
) -> None:
    first, _ = written(marked, "fiftyone", tmp_path / "out")["samples"]
    assert Path(first["filepath"]).is_file() and first["caption"] == CAPTION
    marks = first["sentences"]["classifications"]
    assert [one["label"] for one in marks] == ["supported", "unsupported", "cannot_judge"]
    assert [one["confidence"] for one in marks] == [0.97, 0.75, None]
    assert [CAPTION[one["start"] : one["end"]] for one in marks] == [one["text"] for one in marks]


def test_label_studio_gets_a_labelled_span_for_each_sentence(
    marked: list[MarkedCaption], tmp_path: Path
) -> None:
    first, _ = written(marked, "label-studio", tmp_path / "out")
    assert first["data"]["image"].startswith("/data/local-files/?d=")
    assert first["data"]["image"].endswith("/a%20b.png")
    (prediction,) = first["predictions"]
    assert prediction["score"] == 0.25
    interface = ElementTree.parse(tmp_path / "out" / "interface.xml").getroot()
    labels, text = interface.find("Labels"), interface.find("Text")
    assert labels is not None and text is not None
    known = [one.get("value") for one in labels]
    for one in prediction["result"]:
        assert (one["from_name"], one["to_name"]) == (labels.get("name"), labels.get("toName"))
        assert one["to_name"] == text.get("name") and text.get("value") == "$caption"
        value = one["value"]
        assert CAPTION[value["start"] : value["end"]] == value["text"]
        assert value["labels"][0] in known


def test_labels_that_people_changed_in_fiftyone_come_back(
    vlv: Callable, marked: list[MarkedCaption], tmp_path: Path
) -> None:
    content = written(marked, "fiftyone", tmp_path / "out")
    content["samples"][0]["sentences"]["classifications"][0]["label"] = "unsupported"
    del content["samples"][1]["sentences"]
    (tmp_path / "out" / "samples.json").write_text(json.dumps(content))
    ran = vlv("data", "sentence-labels", tmp_path / "out", "--out", tmp_path / "labels.jsonl")
    assert ran.out.startswith("1 caption with 3 sentences written to")
    assert "1 without labels left out" in ran.out
    assert rows(tmp_path / "labels.jsonl") == [
        {
            "file_name": str(tmp_path / "a b.png"),
            "sentences": [
                {"text": "A red cube.", "label": "unsupported"},
                {"text": "The floor is gray.", "label": "unsupported"},
                {"text": "A cat.", "label": "cannot_judge"},
            ],
        }
    ]


def test_annotations_of_label_studio_come_back(
    vlv: Callable, marked: list[MarkedCaption], tmp_path: Path
) -> None:
    tasks = written(marked, "label-studio", tmp_path / "out")
    # What Label Studio exports as JSON: the tasks, with what was submitted.
    result = tasks[0]["predictions"][0]["result"]
    result[1]["value"]["labels"] = ["supported"]
    submitted = {"was_cancelled": False, "result": list(reversed(result))}
    tasks[0]["annotations"] = [submitted, {"was_cancelled": True, "result": []}]
    tasks[1]["annotations"] = []
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    out = tmp_path / "labels.jsonl"
    assert vlv("data", "sentence-labels", tmp_path / "export.json", "--out", out).code == 0
    (row,) = rows(out)
    assert row["file_name"] == str(tmp_path / "a b.png")
    assert [one["label"] for one in row["sentences"]] == ["supported", "supported", "cannot_judge"]
    assert [one["text"] for one in row["sentences"]] == [one.text for one in SENTENCES]
    assert vlv("data", "sentence-labels", tmp_path / "export.json", "--out", out).code == 2


def test_an_image_in_a_dataset_goes_into_the_task_and_not_to_fiftyone(tmp_path: Path) -> None:
    plain("red").save(tmp_path / "a.png")
    image = ImageInput("set.tar/a.png", (tmp_path / "a.png").read_bytes())
    one = MarkedCaption.of(image, Verified(image.name, CAPTION, SENTENCES))
    (task,) = written([one], "label-studio", tmp_path / "out")
    assert task["data"]["image"].startswith("data:image/png;base64,")
    with pytest.raises(ConfigError, match="lies in a dataset"):
        write_marks([one], "fiftyone", tmp_path / "fo")
    assert not (tmp_path / "fo").exists()


@pytest.mark.parametrize("layout", ["fiftyone", "label-studio"])
def test_a_file_name_that_is_no_text_costs_no_marks(
    vlv: Callable, tmp_path: Path, layout: Layout
) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.png")
    plain("red").save(file)
    image = ImageInput.of_file(file)
    one = MarkedCaption.of(image, Verified(image.name, CAPTION, SENTENCES))
    (made,) = (
        written([one], layout, tmp_path / "out")["samples"]
        if layout == "fiftyone"
        else written([one], layout, tmp_path / "out")
    )
    if layout == "fiftyone":
        assert Path(made["filepath"]) == file
        out = tmp_path / "labels.jsonl"
        assert vlv("data", "sentence-labels", tmp_path / "out", "--out", out).code == 0
        assert Path(rows(out)[0]["file_name"]) == file
    else:
        assert made["data"]["image"].endswith("caf%E9.png")


@pytest.mark.parametrize("content", ["{}", '[{"data": {}}]', "no json", '{"samples": [{}, 3]}'])
def test_what_is_no_export_is_named(vlv: Callable, tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    ran = vlv("data", "sentence-labels", tmp_path / "x.json", "--out", tmp_path / "y.jsonl")
    assert ran.code != 0
    assert str(tmp_path / "x.json") in ran.err and len(ran.err.splitlines()) == 1
    assert not (tmp_path / "y.jsonl").exists()


@pytest.mark.parametrize(
    ("layout", "name", "damaged", "fault"),
    [
        ("label-studio", "annotations", [12], "annotations is no list of objects"),
        ("label-studio", "annotations", [{"result": "none"}], "result is no list of objects"),
        ("label-studio", "annotations", [{"result": [3]}], "result is no list of objects"),
        ("label-studio", "data", {"caption": ["A"], "file_name": "a"}, "caption is list instead"),
        ("fiftyone", "sentences", {"classifications": [3]}, "classifications is no list"),
        (
            "fiftyone",
            "sentences",
            {"classifications": [{"text": None, "label": "supported"}]},
            "text is NoneType instead of a text",
        ),
    ],
)
def test_an_entry_of_another_form_is_named(
    vlv: Callable,
    marked: list[MarkedCaption],
    tmp_path: Path,
    layout: Layout,
    name: str,
    damaged: Any,
    fault: str,
) -> None:
    content = written(marked, layout, tmp_path / "out")
    entries = content["samples"] if layout == "fiftyone" else content
    for entry in entries:
        if layout == "label-studio":
            entry["annotations"] = []
    entries[1][name] = damaged
    file = tmp_path / "export.json"
    file.write_text(json.dumps(content))
    ran = vlv("data", "sentence-labels", file, "--out", tmp_path / "labels.jsonl")
    assert ran.code == 1 and len(ran.err.splitlines()) == 1
    assert f"entry 2 of {file}" in ran.err and fault in ran.err and "export what" in ran.err
    assert not (tmp_path / "labels.jsonl").exists()


def test_verify_writes_them(vlv: Callable, tmp_path: Path) -> None:
    assert vlv("world", "render", "--count", 1, "--out", tmp_path / "scenes").code == 0
    text, out = "A red cube.", tmp_path / "out"
    asked = ("verify", tmp_path / "scenes", "--caption", text, "--output-format", "label-studio")
    assert vlv(*asked, "--output", out).code == 0
    (task,) = json.loads((out / "tasks.json").read_text())
    assert task["data"]["caption"] == text and len(task["predictions"][0]["result"]) == 1
    assert vlv(*asked, "--output", out).code == 2
    assert vlv(*asked).code == 2


def test_fiftyone_is_refused_for_a_dataset_before_any_work(vlv: Callable, tmp_path: Path) -> None:
    (tmp_path / "set.tar").touch()
    ran = vlv("verify", tmp_path / "set.tar", "--output-format", "fiftyone", "--output", tmp_path)
    assert ran.code == 2 and "FiftyOne shows image files" in ran.err
