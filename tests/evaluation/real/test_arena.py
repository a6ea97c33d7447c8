"""`vlv eval arena SET` against a real server that misbehaves."""

import json
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.data.teacher.server import Reply
from tests.evaluation.real.judge_server import JudgeBooks, by_length, captions_in, judging
from tests.evaluation.real.killed import finish, kill_when, start
from tests.evaluation.real.photographs import CAPTIONS, save_photographs
from tests.shared import until

IMAGES = len(CAPTIONS)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs with captions by three captioners: long, middling and short ones."""
    folder = tmp_path_factory.mktemp("arena")
    save_photographs(folder / "set", captions=False)
    for name, words in (("long", 7), ("middling", 4), ("short", 2)):
        lines = [
            {"file_name": f"{image}.png", "text": " ".join([image, *["word"] * (words - 1)])}
            for image in CAPTIONS
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def command(folder: Path, out: Path, judge: JudgeBooks | None, *more: object) -> list[str]:
    words: list[object] = ["eval", "arena", folder / "set", "--output", out, *more]
    for name in ("long", "middling", "short"):
        words += ["--captions", f"{name}={folder / f'{name}.jsonl'}"]
    if judge is not None:
        words += ["--base-url", judge.url, "--model", "judge"]
    return [str(word) for word in words]


def rows(result: dict[str, Any], part: str) -> list[dict[str, Any]]:
    return [row for row in result["rows"] if row["labels"]["part"] == part]


def test_scores_come_back_to_their_captioners_and_a_second_run_pays_nothing(
    vlv: Callable, photographs: Path, tmp_path: Path
) -> None:
    with judging(by_length) as judge:
        ran = vlv(*command(photographs, tmp_path / "out", judge, "--json"))
        assert ran.code == 0, ran.err
        again = vlv(*command(photographs, tmp_path / "out", judge))
        assert again.code == 0 and "Captions of real images" in again.out
        assert f"0 of {IMAGES} questions to ask" in again.err
    assert sum(judge.paid.values()) == IMAGES
    result = json.loads(ran.out)
    scores = {row["labels"]["captions"]: row for row in rows(result, "scores")}
    values = {name: row["figures"]["score"]["value"] for name, row in scores.items()}
    assert values == {"long": 6, "middling": 4, "short": 2}
    assert scores["long"]["count"] == IMAGES
    gaps = {
        r["labels"]["captions"]: r["figures"]["difference"] for r in rows(result, "differences")
    }
    assert gaps["long minus short"] == {"value": 4, "low": 4, "high": 4}
    assert result["provenance"]["spent"]["requests"] == IMAGES
    lines = [json.loads(line) for line in (tmp_path / "out" / "ratings.jsonl").open()]
    assert len(lines) == 3 * IMAGES
    assert {line["reasons"] for line in lines if line["captioner"] == "long"} == {"7 words"}


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)[-3:]


def test_pages_show_the_best_the_worst_and_some_with_scores_as_text(
    vlv: Callable, photographs: Path, tmp_path: Path
) -> None:
    def script(body: dict[str, Any], request: int) -> Reply:
        reply = by_length(body, request)
        return Reply(reply.text.replace("7 words", "<script>7 words"))

    worst = tmp_path / "worst.jsonl"
    lines = [
        {"file_name": f"{image}.png", "text": " ".join(["word"] * (number % 6 + 1))}
        for number, image in enumerate(CAPTIONS)
    ]
    worst.write_text("\n".join(map(json.dumps, lines)))
    with judging(script) as judge:
        words = command(photographs, tmp_path / "out", judge)
        at = words.index("--captions")
        words[at:at] = ["--captions", f"varied={worst}"]
        ran = vlv(*words)
        assert ran.code == 0 and "arena.html" in ran.out
        page = (tmp_path / "out" / "arena.html").read_text()
        assert vlv(*words, "--pairwise").code == 0
    assert "<script" not in page and "judge: 6 (&lt;script&gt;7 words)" in page
    assert headings(page)[:2] == ["Highest score of varied", "Lowest score of varied"]
    sections = re.split("<h2>", page)[-3:]
    names = [re.findall(r"<h3>(.*?)</h3>", section) for section in sections]
    assert (
        names[0][0] == f"{list(CAPTIONS)[5]}.png" and names[1][0] == f"{next(iter(CAPTIONS))}.png"
    )
    assert page.count("data:image/jpeg;base64,") == 3 * IMAGES and "http" not in page
    pairs = (tmp_path / "out" / "arena.html").read_text()
    assert headings(pairs)[0] == "Highest share of wins of varied"
    assert "judge: better than short" in pairs


def test_judges_see_no_names_and_captions_in_many_orders(
    vlv: Callable, photographs: Path, tmp_path: Path
) -> None:
    with judging(by_length) as judge:
        assert vlv(*command(photographs, tmp_path / "out", judge)).code == 0
    orders = Counter(
        tuple(len(text.split()) for text in captions_in(body).values()) for body in judge.bodies
    )
    assert len(orders) > 2
    sent = json.dumps([body["messages"] for body in judge.bodies])
    assert not any(name in sent for name in ("middling", ".png", ".jsonl", "set/"))
    (form,) = {json.dumps(body["response_format"]) for body in judge.bodies}
    assert json.loads(form)["json_schema"]["strict"] is True
    kinds = [part["type"] for part in judge.bodies[0]["messages"][-1]["content"]]
    assert kinds == ["image_url", "text"]


def test_what_is_no_rating_is_asked_again_and_a_judge_that_always_refuses_is_named(
    vlv: Callable, photographs: Path, tmp_path: Path
) -> None:
    good = by_length

    def fenced(body: dict[str, Any]) -> Reply:
        return Reply(f"Here it is:\n```json\n{good(body).text}\n```")

    def wrong_score(body: dict[str, Any]) -> Reply:
        return Reply(good(body).text.replace('"score_A": ', '"score_A": 1'))

    # What each picture gets before it gets a rating.
    faults: list[list[Callable[[dict[str, Any]], Reply]]] = [
        [
            lambda body: Reply("slow down", "rate_limit", 429, {"Retry-After": "0.2"}),
            lambda body: Reply("{not json"),
        ],
        [
            lambda body: Reply('{"score_A": 3}'),
            lambda body: Reply("I'm sorry, I can't assist with that."),
        ],
        [
            lambda body: Reply(good(body).text, cut=True),
            lambda body: Reply(good(body).text[:-1], "length"),
        ],
        [lambda body: Reply("oops", "", 500), wrong_score],
        [fenced],
    ]
    order: dict[str, int] = {}

    def script(body: dict[str, Any], request: int) -> Reply:
        question = json.dumps(body["messages"])
        if "horse" in question:
            return Reply("I cannot assist with pictures of horses.")
        replies = faults[order.setdefault(question, len(order))]
        return replies[request - 1](body) if request <= len(replies) else good(body)

    with judging(script) as judge:
        ran = vlv(*command(photographs, tmp_path / "out", judge, "--json", "--concurrency", 1))
        assert ran.code == 1 and "horse.png" in ran.err and "Traceback" not in ran.err
        paid = sum(judge.paid.values())
        assert vlv(*command(photographs, tmp_path / "out", judge)).code == 1
        assert sum(judge.paid.values()) == paid  # what was given up stays so
    result = json.loads(ran.out)
    assert {row["count"] for row in rows(result, "scores")} == {IMAGES - 1}
    problems = result["provenance"]["problems"]
    assert problems == {"refusal": 4, "bad-json": 3, "truncated": 1}
    # An answer that is cut off is paid by the server's books, and not in ours.
    assert result["provenance"]["spent"]["requests"] == paid - 1


def test_images_without_captions_are_no_part_and_those_of_some_captioners_are_named(
    vlv: Callable, photographs: Path, tmp_path: Path
) -> None:
    lines = (photographs / "long.jsonl").read_text().splitlines()
    for name, part in (("one", lines[:4]), ("two", lines[1:4])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(part))
    words = ["eval", "arena", photographs / "set", "--output", tmp_path / "out", "--json"]
    words += [w for n in ("one", "two") for w in ("--captions", f"{n}={tmp_path / n}.jsonl")]
    with judging(by_length) as judge:
        asked = ("--base-url", judge.url, "--model", "judge")
        ran = vlv(*words, *asked)
        assert sum(judge.paid.values()) == 3
        limited = vlv(*words, *asked, "--limit", 1)
        assert sum(judge.paid.values()) == 3
    assert ran.code == 1 and ran.err.count("there is no caption by two") == 1
    assert json.loads(ran.out)["provenance"]["undescribed"] == IMAGES - 4
    assert {row["count"] for row in rows(json.loads(limited.out), "scores")} == {1}


def test_several_judges_and_their_agreement(
    vlv: Callable, photographs: Path, tmp_path: Path
) -> None:
    def generous(body: dict[str, Any], _: int) -> Reply:
        fields = json.loads(by_length(body).text)
        for name, value in fields.items():
            if name.startswith("score_"):
                fields[name] = min(value + 1, 6)
        return Reply(json.dumps(fields))

    def script(body: dict[str, Any], request: int) -> Reply:
        return generous(body, request) if body["model"] == "generous" else by_length(body)

    with judging(script) as judge:
        more = ["--judge", f"kind={judge.url}#generous", "--judge", f"same={judge.url}#judge"]
        ran = vlv(*command(photographs, tmp_path / "out", judge, "--json", *more))
    assert ran.code == 0, ran.err
    assert sum(judge.paid.values()) == 3 * IMAGES  # `same` is asked, though its model was asked
    result = json.loads(ran.out)
    found = {row["labels"]["raters"]: row["figures"] for row in rows(result, "agreement")}
    assert found["same, judge"]["kappa"]["value"] == found["same, judge"]["alpha"]["value"] == 1
    assert found["kind, same"]["equal_share"]["value"] == pytest.approx(1 / 3)
    assert 0 < found["kind, same"]["kappa"]["value"] < 1
    assert "kind, same, judge" in found
    scores = {
        (row["labels"]["rater"], row["labels"]["captions"]): row["figures"]["score"]["value"]
        for row in rows(result, "scores")
    }
    assert scores["kind", "short"] == 3
    assert scores["judges", "short"] == pytest.approx((2 + 2 + 3) / 3)


@pytest.mark.parametrize(
    ("variables", "keys"),
    [
        ([], ("Bearer all", "Bearer all")),
        (["MINE"], ("Bearer mine", "Bearer mine")),
        (["other=MINE"], (None, "Bearer mine")),
        (["other=MINE", "OPENAI_API_KEY"], ("Bearer all", "Bearer mine")),
    ],
)
def test_a_key_is_sent_only_to_whom_it_is_for(
    vlv: Callable,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: list[str],
    keys: tuple[str | None, str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "all")
    monkeypatch.setenv("MINE", "mine")
    with (
        judging(lambda body, _: by_length(body)) as judge,
        judging(lambda body, _: by_length(body)) as other,
    ):
        more = ["--judge", f"other={other.url}#judge2", "--limit", 2]
        for variable in variables:
            more += ["--api-key-env", variable]
        ran = vlv(*command(photographs, tmp_path / "out", judge, *more))
    assert ran.code == 0, ran.err
    assert (judge.keys, other.keys) == ({keys[0]}, {keys[1]})


def test_pairs_in_both_orders_and_a_judge_that_prefers_a_place(
    vlv: Callable, photographs: Path, tmp_path: Path
) -> None:
    def script(body: dict[str, Any], _: int) -> Reply:
        if body["model"] == "first":
            return Reply(json.dumps({"reasons": "", "better": "A"}))
        return by_length(body)

    with judging(script) as judge:
        flags = ("--pairwise", "--json", "--judge", f"first={judge.url}#first")
        ran = vlv(*command(photographs, tmp_path / "out", judge, *flags))
    assert ran.code == 0, ran.err
    assert sum(judge.paid.values()) == 2 * 2 * 3 * IMAGES
    result = json.loads(ran.out)
    strong = {
        (row["labels"]["rater"], row["labels"]["captions"]): row["figures"]
        for row in rows(result, "strengths")
    }
    by_rater = [
        strong["judge", name]["strength"]["value"] for name in ("long", "middling", "short")
    ]
    assert by_rater == sorted(by_rater, reverse=True) and by_rater[1] == pytest.approx(0, abs=1e-6)
    assert strong["judge", "long"]["win_share"]["value"] == 1
    assert strong["first", "long"]["strength"]["value"] == pytest.approx(0, abs=1e-6)
    places = {row["labels"]["rater"]: row["figures"] for row in rows(result, "places")}
    assert places["first"]["first_preferred"]["value"] == 1
    assert places["first"]["same_in_both"]["value"] == 0
    assert places["judge"]["first_preferred"]["value"] == 0.5
    assert places["judge"]["same_in_both"]["value"] == 1


def test_kills_lose_no_answer_and_pay_nothing_twice(photographs: Path, tmp_path: Path) -> None:
    def script(body: dict[str, Any], _: int) -> Reply:
        return Reply(by_length(body).text, delay=0.05)

    kills, questions = 2, 6 * IMAGES
    with judging(script) as judge:
        words = command(photographs, tmp_path / "out", judge, "--pairwise", "--concurrency", 2)
        for part in range(1, kills + 1):
            goal = part * questions // (kills + 1)
            kill_when(words, lambda goal=goal: sum(judge.paid.values()) >= goal)
        finish(words)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert sum(row["count"] for row in rows(result, "pairs")) == questions
    # A kill loses at most what was on its way: two requests.
    assert questions < sum(judge.paid.values()) <= questions + 2 * kills
    assert max(judge.paid.values()) <= 1 + kills


def test_a_signal_waits_for_what_is_paid(photographs: Path, tmp_path: Path) -> None:
    def script(body: dict[str, Any], _: int) -> Reply:
        return Reply(by_length(body).text, delay=0.2)

    with judging(script) as judge:
        words = command(photographs, tmp_path / "out", judge, "--json", "--concurrency", 1)
        process = start(words)
        until(lambda: sum(judge.paid.values()) >= 2 or process.poll() is not None, 120)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
        paid = sum(judge.paid.values())
    assert process.returncode == 143, err
    result = json.loads(out)
    assert result["provenance"]["spent"]["requests"] == paid < IMAGES
    assert result["provenance"]["not_asked"] == IMAGES - paid
    assert {row["count"] for row in rows(result, "scores")} == {paid}


def test_the_budget_is_never_passed_and_a_dry_run_asks_nothing(
    vlv: Callable, photographs: Path, tmp_path: Path
) -> None:
    prices = ("--input-price", 1, "--output-price", 10)
    with judging(by_length) as judge:
        dry = vlv(*command(photographs, tmp_path / "out", judge, "--dry-run", *prices))
        assert dry.code == 0 and f"{IMAGES} of {IMAGES} questions" in dry.err and "USD" in dry.err
        assert not judge.asked
        flags = ("--max-cost-usd", 0.015, "--json", *prices)
        ran = vlv(*command(photographs, tmp_path / "out", judge, *flags))
        assert ran.code == 1 and "budget is spent" in ran.err
        spent = json.loads(ran.out)["provenance"]["spent"]
        assert 0 < spent["usd"] <= 0.015
        assert 0 < sum(judge.paid.values()) == spent["requests"] < IMAGES


def test_wrong_use_is_one_sentence(vlv: Callable, photographs: Path, tmp_path: Path) -> None:
    source = photographs / "set"
    captions = f"long={photographs / 'long.jsonl'}"

    def refused(*words: object) -> str:
        ran = vlv("eval", "arena", *words, "--output", tmp_path / "out")
        assert ran.code in (1, 2) and ran.err.startswith("vlv: ") and ran.err.count("\n") == 1, ran
        return str(ran.err)

    assert "--captions NAME=FILE" in refused(source)
    assert "name a judge" in refused(source, "--captions", captions)
    asked = ("--captions", captions, "--base-url", "http://127.0.0.1:9/v1")
    assert "belong together" in refused(source, *asked)
    asked += ("--model", "judge")
    assert "name two or more" in refused(source, *asked, "--pairwise")
    assert "stands alone" in refused(source, "count=3", *asked)
    assert "two captioners" in refused(source, *asked, "--captions", captions)
    assert "is not NAME=URL#MODEL" in refused(source, "--captions", captions, "--judge", "x")
    key = ("--api-key-env", "other=KEY")
    assert "names no judge; the judges are judge" in refused(source, *asked, *key)
    assert "a second variable" in refused(source, *asked, "--api-key-env", "A", *key[:1], "B")
    assert "no name of a page" in refused(source, "--captions", captions, "--human", tmp_path)
    (tmp_path / "other.jsonl").write_text('{"file_name": "other.png", "text": "A cat."}')
    other = f"other={tmp_path / 'other.jsonl'}"
    assert "has a caption of every captioner" in refused(
        source, *asked[2:], "--captions", other, *asked
    )
