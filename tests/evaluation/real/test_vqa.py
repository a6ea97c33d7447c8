"""`vlv eval vqa SET` with files of VQA's form, against a real server."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.data.teacher.server import Reply
from tests.evaluation.real.judge_server import JudgeBooks, judging, text_of
from tests.evaluation.real.killed import finish, kill_when

COLORS = ("red", "blue", "green", "white", "black")


def write_split(folder: Path, split: str, first: int) -> None:
    """Two questions about each of five images: its colour, and a number."""
    questions, annotations = [], []
    for at, color in enumerate(COLORS):
        image = first + at
        people = {0: [color] * 10, 1: ["two"] * 3 + ["3"] * 7}
        for kind, text in enumerate(("What color is it?", "How many are there?")):
            number = image * 10 + kind
            about = {"image_id": image, "question_id": number}
            questions.append({**about, "question": text})
            answers = [
                {"answer": one, "answer_confidence": "yes", "answer_id": person}
                for person, one in enumerate(people[kind], start=1)
            ]
            kinds = ("other", "number")[kind]
            annotations.append({**about, "answer_type": kinds, "answers": answers})
    (folder / f"{split}_questions.json").write_text(json.dumps({"questions": questions}))
    (folder / f"{split}_annotations.json").write_text(json.dumps({"annotations": annotations}))


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Five images as COCO names them, and captions that tell the colour or do not."""
    (tmp_path / "set").mkdir()
    for at in range(5):
        name = f"COCO_val2014_{100 + at:012d}.jpg"
        Image.new("RGB", (8, 8), (at * 40, 0, 0)).save(tmp_path / "set" / name)
    for split, first in (("val", 100), ("train", 500)):
        write_split(tmp_path, split, first)
        names = [f"COCO_{split}2014_{first + at:012d}.jpg" for at in range(5)]
        for captioner in ("plain", "coloured"):
            lines = [
                {
                    "file_name": name,
                    "text": f"A {color} ball." if captioner == "coloured" else "A plain ball.",
                }
                for name, color in zip(names, COLORS, strict=True)
            ]
            file = tmp_path / f"{split}_{captioner}.jsonl"
            file.write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def command(coco: Path, model: JudgeBooks, *more: object) -> list[object]:
    return [
        *("eval", "vqa", coco / "set", "--output", coco / "out"),
        *("--questions", coco / "val_questions.json"),
        *("--annotations", coco / "val_annotations.json"),
        *("--captions", f"plain={coco / 'val_plain.jsonl'}"),
        *("--captions", f"coloured={coco / 'val_coloured.jsonl'}"),
        *("--base-url", model.url, "--model", "llm", "--json", *more),
    ]


def shots_of(coco: Path) -> list[object]:
    return [
        *("--shot-questions", coco / "train_questions.json"),
        *("--shot-annotations", coco / "train_annotations.json"),
        *("--shot-captions", f"plain={coco / 'train_plain.jsonl'}"),
        *("--shot-captions", f"coloured={coco / 'train_coloured.jsonl'}"),
    ]


def reader(body: dict[str, Any], _: int) -> Reply:
    """Answers from the last description alone."""
    caption, question = re.findall(r"Description: (.*)\nQuestion: (.*)\nAnswer:", text_of(body))[-1]
    if "How many" in question:
        return Reply("Two.\n\nThe description says so.")
    color = next((one for one in COLORS if one in caption), "unknown")
    return Reply(f"Answer: {color.capitalize()}")


def accuracies(result: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    return {
        (row["labels"]["captions"], row["labels"]["shots"]): row["figures"]
        for row in result["rows"]
        if row["labels"]["part"] == "accuracy"
    }


def test_questions_are_answered_from_captions_and_paid_once(vlv: Callable, coco: Path) -> None:
    with judging(reader) as model:
        ran = vlv(*command(coco, model))
        assert ran.code == 0, ran.err
        assert sum(model.paid.values()) == len(model.paid)
        paid = sum(model.paid.values())
        assert vlv(*command(coco, model)).code == 0
        assert sum(model.paid.values()) == paid
    assert 11 <= paid <= 20
    assert not any("response_format" in body for body in model.bodies)
    assert all(isinstance(body["messages"][-1]["content"], str) for body in model.bodies)
    figures = accuracies(json.loads(ran.out))
    assert figures["coloured", 0]["other"]["value"] == 1
    assert figures["plain", 0]["other"]["value"] == 0
    # Three people of ten said two.
    assert figures["plain", 0]["number"]["value"] == pytest.approx(0.9)
    assert figures["coloured", 0]["accuracy"]["value"] == pytest.approx(0.95)
    # Most people said three.
    assert figures["coloured", 0]["exact"]["value"] == 0.5
    assert figures["plain", 0]["exact"]["value"] == 0
    lines = [json.loads(line) for line in (coco / "out" / "answers.jsonl").open()]
    assert len(lines) == 20 and {line["answer"] for line in lines} >= {"Two.", "Red", "Unknown"}
    page = (coco / "out" / "vqa.html").read_text()
    assert "Highest accuracy of plain" in page and page.count("data:image/jpeg;base64,") == 15
    assert "coloured, llm, 0 shots: “Red” (1.00)" in page and "people say “red”" in page


def test_examples_have_captions_of_the_captioner_and_never_the_image_itself(
    vlv: Callable, coco: Path
) -> None:
    with judging(reader) as model:
        shots = ("--shots", 0, "--shots", 4, *shots_of(coco))
        assert vlv(*command(coco, model, *shots, "--limit", 4)).code == 0
        asked = {text_of(body) for body in model.bodies}
        ran = vlv(*command(coco, model, *shots, "--limit", 4, "--output", coco / "again"))
    assert ran.code == 0
    # A new folder asks the same again: the examples are drawn by key.
    assert {text_of(body) for body in model.bodies} == asked
    counts = {text.count("Question: ") for text in asked}
    assert counts == {1, 5}
    for text in asked:
        captions = re.findall(r"Description: (.*)", text)
        assert len({"plain" in caption for caption in captions}) == 1
        *examples, last = re.findall(r"Answer:(.*)", text)
        assert last == "" and all(one.startswith(" ") for one in examples)
    assert ("coloured", 4) in accuracies(json.loads(ran.out))


def test_questions_may_name_images_by_their_files(vlv: Callable, coco: Path) -> None:
    """The number at the end is the same in all names, and tells nothing."""
    names = {100 + at: f"{color}_1" for at, color in enumerate(COLORS)}
    for kind in ("questions", "annotations"):
        file = coco / f"val_{kind}.json"
        entries = json.loads(file.read_text())[kind]
        named = [{**one, "image_id": f"{names[one['image_id']]}.jpg"} for one in entries]
        file.write_text(json.dumps({kind: named}))
    for number, name in names.items():
        old = f"COCO_val2014_{number:012d}.jpg"
        (coco / "set" / old).rename(coco / "set" / f"{name}.jpg")
        for file in coco.glob("val_*.jsonl"):
            file.write_text(file.read_text().replace(old, f"elsewhere/{name}.jpg"))
    with judging(reader) as model:
        ran = vlv(*command(coco, model))
        assert ran.code == 0, ran.err
        (coco / "set" / "more").mkdir()
        Image.new("RGB", (8, 8)).save(coco / "set" / "more" / "red_1.png")
        twice = vlv(*command(coco, model))
    assert accuracies(json.loads(ran.out))["coloured", 0]["other"]["value"] == 1
    assert (coco / "out" / "vqa.html").read_text().count("data:image/jpeg;base64,") == 15
    assert twice.code == 1 and "are both red_1 for the questions" in twice.err


def test_questions_of_an_image_stay_together_and_those_without_answers_are_left_out(
    vlv: Callable, coco: Path
) -> None:
    """Twenty times the same question about each image tells no more than one."""
    questions = json.loads((coco / "val_questions.json").read_text())["questions"][::2]
    annotations = json.loads((coco / "val_annotations.json").read_text())["annotations"][::2]
    for number, wrong in ((1, True), (2, True)):  # two of five images
        for answer in annotations[number]["answers"]:
            answer["answer"] = "mauve" if wrong else answer["answer"]

    def half_widths(times: int) -> list[float]:
        def many(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [
                {**one, "question_id": one["question_id"] * 100 + copy}
                for one in entries
                for copy in range(times)
            ]

        unanswered = {"question_id": 7, "image_id": 100}
        asked = [*many(questions), {**unanswered, "question": "Why?"}]
        known = [*many(annotations), {**unanswered, "answer_type": "other", "answers": []}]
        (coco / "q.json").write_text(json.dumps({"questions": asked}))
        (coco / "a.json").write_text(json.dumps({"annotations": known}))
        files = ("--questions", coco / "q.json", "--annotations", coco / "a.json")
        with judging(reader) as model:
            ran = vlv(*command(coco, model, *files, "--output", coco / str(times)))
        assert ran.code == 0, ran.err
        result = json.loads(ran.out)
        assert result["rows"][0]["count"] == 5 * times
        figure = accuracies(result)["coloured", 0]["accuracy"]
        assert figure["value"] == pytest.approx(0.6)
        return [figure["low"], figure["high"]]

    assert half_widths(20) == pytest.approx(half_widths(1))


def test_a_refused_question_counts_as_wrong_and_is_named(vlv: Callable, coco: Path) -> None:
    def script(body: dict[str, Any], request: int) -> Reply:
        if "red" in text_of(body):
            return Reply("I'm sorry, I can't help with that.")
        return Reply("slow", "", 429) if request == 1 else reader(body, request)

    with judging(script) as model:
        ran = vlv(*command(coco, model))
    assert ran.code == 1 and "1000 (coloured, 0 shots)" in ran.err
    result = json.loads(ran.out)
    assert accuracies(result)["coloured", 0]["other"]["value"] == pytest.approx(0.8)
    assert "2 questions got no usable answer" in " ".join(result["notes"])


THINKING_OFF = {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.mark.parametrize("thoughts", ["<think>\nIt says red.\n</think>\n\n", "Red? Yes.\n</think>"])
def test_thoughts_before_an_answer_are_no_answer(vlv: Callable, coco: Path, thoughts: str) -> None:
    with judging(lambda body, n: Reply(thoughts + reader(body, n).text)) as model:
        ran = vlv(*command(coco, model))
    assert ran.code == 0, ran.err
    assert accuracies(json.loads(ran.out))["coloured", 0]["accuracy"]["value"] == pytest.approx(
        0.95
    )


def test_a_model_that_only_thinks_ends_the_run_unless_that_is_turned_off(
    vlv: Callable, coco: Path
) -> None:
    def thinking(body: dict[str, Any], request: int) -> Reply:
        if body.items() >= THINKING_OFF.items():
            return reader(body, request)
        if "wine" in body["model"]:  # its server takes the thoughts out of the text
            message = {"content": None, "reasoning_content": "The description says"}
            choice = {"message": message, "finish_reason": "length"}
            return Reply(raw=json.dumps({"choices": [choice]}).encode())
        return Reply("<think>\nThe description says", "length")

    with judging(thinking) as model:
        for name in ("qwen", "wine"):
            judge = ("--judge", f"{name}={model.url}#{name}", "--concurrency", 1)
            ran = vlv(*command(coco, model)[:-5], *judge)
            assert ran.code == 2 and "--extra-body" in ran.err, ran
            assert sum(model.paid.values()) == 5
            model.paid.clear()
        off = ("--extra-body", f"qwen={json.dumps(THINKING_OFF)}")
        ran = vlv(*command(coco, model)[:-5], "--judge", f"qwen={model.url}#qwen", "--json", *off)
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert accuracies(result)["coloured", 0]["accuracy"]["value"] == pytest.approx(0.95)
    assert result["provenance"]["models"][0]["extra_body"] == THINKING_OFF


def test_further_fields_of_requests(vlv: Callable, coco: Path) -> None:
    with judging(reader) as model:
        limit = '{"max_tokens": null, "max_completion_tokens": 900, "temperature": null}'
        budget = ("--max-cost-usd", 0.0012, "--input-price", 1, "--output-price", 1)
        # Money is set aside for the tokens that are allowed in fact.
        ran = vlv(*command(coco, model, "--extra-body", limit, *budget, "--concurrency", 1))
        assert ran.code == 1 and "the budget is spent" in ran.err and len(model.bodies) == 1
        assert model.bodies[0].keys() == {"model", "messages", "max_completion_tokens"}
        for text, said in (
            ('{"max_tokens": null}', "takes the limit of tokens away"),
            ('{"max_tokens": "9"}', "a whole number"),
            ('{"stream": true}', "cannot set stream"),
            ("[1]", "is no JSON object"),
            ("other={}", "names no judge; the judges are llm"),
            ("llm={", "give a JSON object"),
        ):
            ran = vlv(*command(coco, model, "--extra-body", text))
            assert ran.code == 2 and said in ran.err, (text, ran.err)


def test_wrong_use_is_one_sentence(vlv: Callable, coco: Path) -> None:
    with judging(reader) as model:

        def refused(*more: object) -> str:
            ran = vlv(*command(coco, model, *more))
            assert ran.code in (1, 2) and ran.err.splitlines()[-1].startswith("vlv: "), ran
            return str(ran.err)

        assert "need --shot-questions" in refused("--shots", 4)
        assert "32 shots need" in refused("--shots", 32, *shots_of(coco))
        only_one = [*shots_of(coco)[:-1], f"other={coco / 'train_plain.jsonl'}"]
        assert "the same captioners" in refused("--shots", 4, *only_one)
        assert "holds no list" in refused("--questions", coco / "val_annotations.json")
        assert "of one split" in refused("--questions", coco / "train_questions.json")
        same = [{"file_name": f"{kind}-100.jpg", "text": kind} for kind in ("a", "b")]
        (coco / "same.jsonl").write_text("\n".join(map(json.dumps, same)))
        assert "two captions of image 100" in refused("--captions", f"x={coco / 'same.jsonl'}")
        (coco / "odd.jsonl").write_text('{"file_name": "cat.jpg", "text": "A cat."}')
        assert "but cat.jpg; name" in refused("--captions", f"odd={coco / 'odd.jsonl'}")
        assert not model.asked


def test_kills_lose_no_answer_and_ask_nothing_twice(vlv: Callable, coco: Path) -> None:
    def slow(body: dict[str, Any], request: int) -> Reply:
        return Reply(reader(body, request).text, delay=0.05)

    with judging(reader) as model:
        whole = json.loads(vlv(*command(coco, model, "--output", coco / "whole")).out)
        questions = len(model.paid)
    with judging(slow) as model:
        words = command(coco, model, "--concurrency", 2)
        for part in (1, 2):
            until = part * questions // 3
            kill_when(words, lambda until=until: sum(model.paid.values()) >= until)
            # What was on its way may have been answered after the kill, and is asked again.
        result = json.loads(finish(words))
        paid = sum(model.paid.values())
        assert len(model.paid) == questions <= paid <= questions + 2 * 2
        assert model.asked == model.paid
        finish(words)
        assert sum(model.paid.values()) == paid
    assert result["rows"] == whole["rows"]
