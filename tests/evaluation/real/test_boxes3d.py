"""`vlv eval boxes3d SET`: a tiny model draws, and a server that also misbehaves gives boxes."""

import base64
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.data.teacher.server import Reply
from tests.evaluation.real.judge_server import JudgeBooks, judging
from tests.evaluation.real.killed import finish, kill_when
from tests.tiny import CAPTIONS, plain

from vlv.evaluation.real.boxes3d import BoxesForm
from vlv.evaluation.results import read_result

NUMBERS = ("x", "y", "z", "width", "height", "depth", "roll", "pitch", "yaw")
Script = Callable[[dict[str, Any], int], Reply]


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Three wide pictures, of one colour each where the decoder sees them."""
    folder = tmp_path / "set"
    folder.mkdir()
    for color in CAPTIONS:
        wide = Image.new("RGB", (128, 64), "white")
        wide.paste(plain(color, (64, 64)), (32, 0))
        wide.save(folder / f"{color}.png")
    return folder


def picture_in(body: Mapping[str, Any]) -> Image.Image:
    (url,) = [
        part["image_url"]["url"]
        for part in body["messages"][-1]["content"]
        if part["type"] == "image_url"
    ]
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")


def seen_in(picture: Image.Image) -> list[float]:
    """What the server takes for the centre of the object: the mean colour."""
    return [float(one) / 255 for one in np.asarray(picture).mean((0, 1))]


def located(body: dict[str, Any], *_: object) -> Reply:
    centre = seen_in(picture_in(body))
    cup = dict(zip(NUMBERS, [*centre, 1, 1, 1, 0, 0, 90 * centre[0]], strict=True))
    return Reply(json.dumps({"objects": [{"name": "cup", **cup}]}))


def command(
    colours: Path, model: Path, judge: JudgeBooks, out: Path, *more: object
) -> list[object]:
    return [
        *("eval", "boxes3d", colours, "--model", f"mine={model}", "--judge", f"j={judge.url}#vlm"),
        *("--output", out, "--num-inference-steps", 2, "--json", *more),
    ]


def test_errors_are_those_of_the_boxes_and_nothing_is_drawn_or_paid_twice(
    vlv: Callable, colours: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with judging(located) as judge:
        ran = vlv(*command(colours, tiny_model_dir, judge, out))
        assert ran.code == 0, ran.err
        assert sum(judge.paid.values()) == len(judge.paid) == 6
        drawn = {file: file.stat().st_mtime_ns for file in out.glob("pictures/mine/*/*.png")}
        assert len(drawn) == 3
        assert vlv(*command(colours, tiny_model_dir, judge, out)).code == 0
        assert sum(judge.paid.values()) == 6
    assert {file: file.stat().st_mtime_ns for file in drawn} == drawn
    sizes = {picture_in(body).size for body in judge.bodies}
    assert sizes == {(32, 32)}  # both as the decoder sees them
    originals = [seen_in(picture_in(body)) for body in judge.bodies]
    # Of the white margins nothing is sent: the originals are the plain colours.
    assert sum(np.allclose(one, [1, 0, 0], atol=0.02) for one in originals) == 1
    result = read_result(out / "result.json")
    (row,) = [one for one in result.rows if one.labels["drawn by"] == "mine"]
    lines = [json.loads(line) for line in (out / "boxes.jsonl").open()]
    gaps = [
        np.abs(np.subtract(one["original"][0]["centre"], one["drawn"][0]["centre"])).mean()
        for one in lines
    ]
    assert len(gaps) == row.count == 3 and min(gaps) > 0
    assert row.figures["centre_error"].value == pytest.approx(np.mean(gaps))
    assert row.figures["scale_error"].value == 0 and row.figures["matched"].value == 1
    assert 0 < row.figures["angle_error"].value < np.pi / 6
    assert any(one.labels["drawn by"] == "mine, of another image" for one in result.rows)
    assert json.loads(ran.out)["provenance"]["models"]["mine"]["num_inference_steps"] == 2
    page = (out / "boxes3d.html").read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", page)[-3:]
    assert headings[0] == "Highest centre error of mine, by j" and page.count("data:image") == 18
    (form,) = {json.dumps(body["response_format"]) for body in judge.bodies}
    assert json.loads(form)["json_schema"]["strict"] is True


@pytest.mark.slow
def test_kills_draw_and_pay_nothing_twice(
    vlv: Callable, colours: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Killed among the pictures, then among the answers."""
    for number in range(6):
        plain(f"rgb({40 * number}, {250 - 40 * number}, 90)").save(colours / f"{number}.png")

    def slow(body: dict[str, Any], _: int) -> Reply:
        return Reply(located(body).text, delay=0.05)

    out = tmp_path / "out"
    with judging(slow) as judge:
        words = command(colours, tiny_model_dir, judge, out, "--concurrency", 1)
        kill_when(words, lambda: len(list(out.glob("pictures/mine/*/*.png"))) >= 2)
        kept = {file: file.stat().st_mtime_ns for file in out.glob("pictures/mine/*/*.png")}
        assert 2 <= len(kept) <= 9 and not judge.asked
        kill_when(words, lambda: sum(judge.paid.values()) >= 6)
        result = json.loads(finish(words))
        assert sum(judge.paid.values()) <= len(judge.paid) + 1
        whole = json.loads(vlv(*command(colours, tiny_model_dir, judge, tmp_path / "whole")).out)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert result["rows"] == whole["rows"]


def test_models_share_the_question_about_the_image_and_are_compared(
    vlv: Callable, colours: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with judging(located) as judge:
        twice = ("--model", f"again={tiny_model_dir}", "--limit", 2)
        assert vlv(*command(colours, tiny_model_dir, judge, out, *twice)).code == 0
    # Two images; both models draw the same picture of each, which is asked about once.
    assert sum(judge.paid.values()) == 4
    (gap,) = [
        one for one in read_result(out / "result.json").rows if "differ" in one.labels["part"]
    ]
    assert gap.labels["drawn by"] == "again" and gap.count == 2
    assert gap.figures["centre_error"].value == 0


def test_what_is_no_box_is_asked_again_and_a_picture_without_an_answer_is_named(
    vlv: Callable, colours: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    def spoiled(body: dict[str, Any], name: str, value: object) -> Reply:
        answer = json.loads(located(body).text)
        answer["objects"][0][name] = value
        return Reply(json.dumps(answer))

    faults: list[Script] = [
        lambda body, _: Reply("slow down", "rate_limit", 429, {"Retry-After": "0.1"}),
        lambda body, _: spoiled(body, "width", -1),
        lambda body, _: Reply(located(body).text[:-2], "length"),
        lambda body, _: spoiled(body, "yaw", "left"),
        lambda body, _: Reply("I'm sorry, I can't help with that."),
    ]
    order: dict[str, int] = {}

    def script(body: dict[str, Any], request: int) -> Reply:
        if np.allclose(seen_in(picture_in(body)), [1, 0, 0], atol=0.02):
            return Reply("I'm sorry, I can't identify this.")
        at = order.setdefault(json.dumps(body["messages"]), len(order))
        return faults[at % len(faults)](body, request) if request == 1 else located(body)

    (colours / "broken.png").write_bytes(b"no image")
    with judging(script) as judge:
        ran = vlv(*command(colours, tiny_model_dir, judge, tmp_path / "out"))
    assert ran.code == 1
    assert "red.png (original, 32 pixels)" in ran.err and "broken.png" in ran.err
    result = json.loads(ran.out)
    assert {row["count"] for row in result["rows"]} == {2}
    assert result["provenance"]["problems"]["bad-json"] >= 2
    assert max(judge.paid.values()) == 3


def test_wrong_use_is_one_sentence_before_anything_is_drawn(
    vlv: Callable, colours: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ran = vlv("eval", "boxes3d", colours, "--model", tiny_model_dir, "--output", out)
    assert ran.code == 2 and "--judge NAME=URL#MODEL" in ran.err
    with judging(located) as judge:
        ran = vlv(*command(colours, tiny_model_dir, judge, out, "--model", f"mine={out}"))
        assert ran.code == 2 and "are called mine" in ran.err
        assert vlv(*command(colours, tmp_path / "nowhere", judge, out)).code == 3
        assert not judge.asked
    assert not list(out.glob("**/*.png"))


@pytest.mark.parametrize(
    "change",
    [
        {"name": " "},
        {"name": 3},
        {"x": True},
        {"x": "1"},
        {"z": 1e9},
        {"z": float("nan")},
        {"z": 10**400},  # no float is so large
        {"depth": 0},
        {"more": 1},
        {"yaw": None},
    ],
)
def test_what_cannot_be_a_box_is_refused(change: dict[str, Any]) -> None:
    good = {"name": "cup", **dict.fromkeys(NUMBERS, 1)}
    form = BoxesForm()
    assert form.read(f"Here: {json.dumps({'objects': [good]})}") is not None
    assert form.read(json.dumps({"objects": []})) == {"objects": []}
    assert form.read(json.dumps({"objects": [{**good, **change}]})) is None
    for text in ("[]", "{}", "", '{"objects": {}}', '{"objects": [NaN]}', '{"objects": [1]}'):
        assert form.read(text) is None
    assert form.read(json.dumps({"objects": [good] * 51})) is None
