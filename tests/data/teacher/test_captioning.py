"""`vlv data caption` against a real server that misbehaves."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from PIL import Image
from tests.data.teacher.server import Reply, Teacher, good_caption, running
from tests.shared import until

from vlv.data.samples import Sample
from vlv.data.sets import read_set, write_set
from vlv.data.teacher.sets import dataset_items

VLV = (sys.executable, "-c", "from vlv.cli import main; main()")
PRICES = ("--input-price", 1, "--output-price", 10)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve images that differ."""
    return make_pictures(tmp_path / "pictures", 12)


def make_pictures(folder: Path, number: int) -> Path:
    folder.mkdir()
    for at in range(number):
        # Far enough apart to be different as JPEGs too.
        color = at % 20 * 12, at // 20 * 12, 90
        Image.new("RGB", (16, 12), color).save(folder / f"{at:04d}.png")
    return folder


@pytest.fixture
def obedient() -> Iterator[Teacher]:
    with running(lambda image, _: Reply(good_caption(image), delay=0.05)) as teacher:
        yield teacher


def captions(folder: Path) -> dict[str, str]:
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    return {one["file_name"]: one["text"] for one in map(json.loads, lines)}


def asked(vlv: Callable, source: Path, target: Path, teacher: Teacher, *more: object):  # type: ignore[no-untyped-def]
    return vlv(
        *("data", "caption", source, target, "--base-url", teacher.url, "--model", "tutor", *more)
    )


def test_thoughts_of_a_teacher_are_no_part_of_a_caption(
    vlv: Callable, pictures: Path, tmp_path: Path
) -> None:
    def thinking(image: str, _: int) -> Reply:
        return Reply(f"<think>\nLet me look at it.\n</think>\n\n{good_caption(image)}")

    with running(thinking) as teacher:
        extra = ("--extra-body", '{"top_k": 20, "temperature": null}', "--temperature", 0.5)
        ran = asked(vlv, pictures, tmp_path / "out", teacher, *extra)
        assert ran.code == 0, ran.err
        assert all(text.startswith("A glossy") for text in captions(tmp_path / "out").values())
        assert {(one.get("top_k"), one.get("temperature")) for one in teacher.bodies} == {
            (20, None)
        }
        # Captions of another request do not stand beside these.
        ran = asked(vlv, pictures, tmp_path / "out", teacher)
        assert ran.code == 2 and "extra_body" in ran.err, ran.err


def test_half_of_an_emoji_does_not_end_the_run(
    vlv: Callable, pictures: Path, tmp_path: Path
) -> None:
    """A server that counts in UTF-16 cuts texts inside of one; no file takes it."""
    with running(lambda image, _: Reply(f"{good_caption(image)} \ud83d")) as teacher:
        ran = asked(vlv, pictures, tmp_path / "out", teacher)
        assert ran.code == 0, ran.err
        assert sum(teacher.paid.values()) == 12
    assert all(text.endswith("\ufffd") for text in captions(tmp_path / "out").values())


def test_every_image_is_paid_once_and_a_second_run_pays_nothing(
    vlv: Callable,
    pictures: Path,
    tmp_path: Path,
    obedient: Teacher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "secret")
    flags = ("--json", "--concurrency", 3, "--api-key-env", "TEACHER_KEY", *PRICES)
    ran = asked(vlv, pictures, tmp_path / "out", obedient, *flags)
    assert ran.code == 0
    assert "12 of 12 images to caption, about " in ran.err
    found = captions(tmp_path / "out")
    assert len(set(found.values())) == len(found) == 12
    assert all(name.endswith(".png") for name in found)
    summary = json.loads(ran.out)
    assert summary["requests"] == sum(obedient.paid.values()) == 12
    assert summary["usd"] == pytest.approx(12 * (900 * 1 + 40 * 10) / 1e6)
    assert obedient.keys == {"Bearer secret"}
    assert 1 < obedient.most_at_a_time <= 3
    again = asked(vlv, pictures, tmp_path / "out", obedient)
    assert again.code == 0 and "0 of 12 images to caption" in again.err
    assert sum(obedient.paid.values()) == 12
    (line, *_) = map(json.loads, (tmp_path / "out" / "metadata.jsonl").read_text().splitlines())
    assert line["teacher"]["model"] == "tutor" and line["teacher"]["attempts"] == 1


def test_what_a_broken_server_sends_is_asked_for_again(
    vlv: Callable, pictures: Path, tmp_path: Path
) -> None:
    faults = [
        Reply("slow down", "rate_limit", 429, {"Retry-After": "0.3"}),
        Reply("oops", "", 500),
        Reply(raw=b"<html>bad gateway</html>", status=502),
        Reply(raw=b"{not json"),
        Reply(good_caption("x"), headers={"Content-Encoding": "gzip"}),
        Reply(raw=b'{"choices": []}'),
        Reply(raw=b'{"choices": [{"message": {}}], "usage": {"prompt_tokens": 1e999}}'),
        Reply(good_caption("x"), cut=True),
    ]
    numbers = count()

    def script(image: str, request: int) -> Reply:
        at = next(numbers)
        return faults[at] if at < len(faults) else Reply(good_caption(image))

    with running(script) as teacher:
        ran = asked(vlv, pictures, tmp_path / "out", teacher)
    assert ran.code == 0, ran.err
    assert len(captions(tmp_path / "out")) == 12
    assert sum(teacher.asked.values()) == 12 + len(faults)


def test_what_does_not_come_in_time_is_asked_for_again(vlv: Callable, tmp_path: Path) -> None:
    def script(image: str, request: int) -> Reply:
        return Reply(good_caption(image), delay=60.0 if request == 1 else 0.0)

    with running(script) as teacher:
        picture = make_pictures(tmp_path / "picture", 1)
        ran = asked(vlv, picture, tmp_path / "out", teacher, "--timeout", 0.5)
    assert ran.code == 0, ran.err
    assert len(captions(tmp_path / "out")) == 1
    assert sum(teacher.asked.values()) >= 2  # a busy machine may be late once more


def test_a_busy_server_refuses_all_requests_at_a_time_and_the_run_goes_on(
    vlv: Callable, tmp_path: Path
) -> None:
    """More are refused in a moment than a run waits for one by one; none of them is on the bill."""
    numbers = count()

    def script(image: str, request: int) -> Reply:
        busy = next(numbers) < 80
        return Reply("slow down", "rate_limit", 429) if busy else Reply(good_caption(image))

    with running(script) as teacher:
        # What 80 answers would cost is more than the limit.
        flags = ("--concurrency", 64, "--json", "--max-cost-usd", 0.5, *PRICES)
        ran = asked(vlv, make_pictures(tmp_path / "many", 64), tmp_path / "out", teacher, *flags)
    assert ran.code == 0, ran.err
    assert len(captions(tmp_path / "out")) == 64
    summary = json.loads(ran.out)
    assert summary["requests"] == sum(teacher.paid.values()) == 64
    assert summary["usd"] == pytest.approx(64 * (900 * 1 + 40 * 10) / 1e6)
    assert sum(teacher.asked.values()) == 64 + 80


def test_answers_that_are_no_captions_are_asked_for_again_or_marked(
    vlv: Callable, pictures: Path, tmp_path: Path
) -> None:
    bad = {
        0: [Reply("I'm sorry, I can't help with that.")],
        1: [Reply("A red ball, " * 60)],
        2: [Reply(good_caption("x"), "length")],
        3: [Reply("Eine rote Kugel liegt neben einem blauen Würfel auf dem Boden.")],
        4: [Reply("I cannot describe this image.")] * 9,
        5: [Reply("against the policy", "content_policy_violation", 400)] * 9,
    }
    order: dict[str, int] = {}

    def script(image: str, request: int) -> Reply:
        replies = bad.get(order.setdefault(image, len(order)), [])
        return replies[request - 1] if request <= len(replies) else Reply(good_caption(image))

    with running(script) as teacher:
        ran = asked(vlv, pictures, tmp_path / "out", teacher, "--json", "--concurrency", 1)
        assert ran.code == 1
        *refused, summary = map(json.loads, ran.out.splitlines())
        assert sorted(one["error"] for one in refused) == ["refusal", "refusal"]
        assert len(captions(tmp_path / "out")) == summary["captions"] == 10
        assert summary["problems"] == {"refusal": 4, "repetition": 1, "truncated": 1, "language": 1}
        # 6 good ones at once, 4 at the second attempt, 3 answers in vain; a 400 is not paid.
        assert summary["requests"] == sum(teacher.paid.values()) == 6 + 4 * 2 + 3
        longer = [body["max_tokens"] for body in teacher.bodies]
        assert set(longer) == {512, 1024}
        again = asked(vlv, pictures, tmp_path / "out", teacher)
        assert again.code == 1 and sum(teacher.paid.values()) == 17  # what is given up stays so
        bad.clear()
        last = asked(vlv, pictures, tmp_path / "out", teacher, "--retry-failed")
        assert last.code == 0 and sum(teacher.paid.values()) == 19
    assert len(captions(tmp_path / "out")) == 12


def test_the_budget_is_never_passed(
    vlv: Callable, pictures: Path, tmp_path: Path, obedient: Teacher
) -> None:
    # An answer costs 0.0013 USD; before it is known, 0.0072 USD are set aside for one.
    flags = ("--max-cost-usd", 0.0131, "--concurrency", 8, "--json", *PRICES)
    ran = asked(vlv, pictures, tmp_path / "out", obedient, *flags)
    assert ran.code == 1
    summary = json.loads(ran.out)
    assert 0 < summary["usd"] <= 0.0131
    assert "budget is spent" in summary["stopped"]
    assert summary["captions"] == 12 - summary["not_asked"] == sum(obedient.paid.values()) > 2
    more = asked(vlv, pictures, tmp_path / "out", obedient, "--max-cost-usd", 1, *PRICES)
    assert more.code == 0 and sum(obedient.paid.values()) == 12


def test_a_limit_needs_a_server_that_counts(vlv: Callable, pictures: Path, tmp_path: Path) -> None:
    with running(lambda image, _: Reply(good_caption(image), usage=False)) as teacher:
        flags = ("--max-total-tokens", 1_000_000, "--concurrency", 1)
        ran = asked(vlv, pictures, tmp_path / "out", teacher, *flags)
        assert ran.code == 1 and "reports no tokens" in ran.err
        assert sum(teacher.paid.values()) == len(captions(tmp_path / "out")) == 1
        assert asked(vlv, pictures, tmp_path / "out", teacher).code == 0
        assert sum(teacher.paid.values()) == 12


def test_answers_that_a_server_blocks_end_no_run_with_a_limit(
    vlv: Callable, pictures: Path, tmp_path: Path
) -> None:
    """Some servers count no tokens of them."""
    choice = {"message": {"content": None}, "finish_reason": "content_filter"}
    usage = {"prompt_tokens": 900, "completion_tokens": 0}
    blocked = Reply(raw=json.dumps({"choices": [choice], "usage": usage}).encode())
    images: list[str] = []

    def script(image: str, _: int) -> Reply:
        images.append(image)
        return blocked if image == images[0] else Reply(good_caption(image))

    with running(script) as teacher:
        flags = ("--max-total-tokens", 1_000_000)
        ran = asked(vlv, pictures, tmp_path / "out", teacher, *flags)
    assert ran.code == 1 and "refusal" in ran.err and "reports no tokens" not in ran.err
    assert len(captions(tmp_path / "out")) == 11


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply("bad key", "invalid_api_key", 401), "check --base-url, --model and the key"),
        (Reply("no such model", "model_not_found", 404), "check --base-url, --model and the key"),
        (Reply("quota", "insufficient_quota", 429), "has no credit left"),
        (Reply("no images here", "invalid", 400), "were all rejected"),
    ],
)
def test_what_no_image_would_pass_ends_the_run(
    vlv: Callable, pictures: Path, tmp_path: Path, reply: Reply, words: str
) -> None:
    with running(lambda image, request: reply) as teacher:
        ran = asked(vlv, pictures, tmp_path / "out", teacher, "--concurrency", 2)
    assert ran.code == 2 and words in ran.err and "Traceback" not in ran.err
    assert sum(teacher.asked.values()) <= 8


def test_wrong_use_is_one_sentence(
    vlv: Callable, pictures: Path, tmp_path: Path, obedient: Teacher
) -> None:
    def refused(source: Path, target: Path, *flags: object) -> str:
        ran = asked(vlv, source, target, obedient, *flags)
        assert ran.code in (1, 2) and ran.err.startswith("vlv: "), ran
        return str(ran.err)

    assert "needs --input-price" in refused(pictures, tmp_path / "a", "--max-cost-usd", 1)
    assert "one folder" in refused(pictures, pictures)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").touch()
    assert "holds other files" in refused(pictures, tmp_path / "taken")
    (tmp_path / "empty").mkdir()
    assert "no image" in refused(tmp_path / "empty", tmp_path / "b")
    assert "cannot be read" in refused(pictures, tmp_path / "c", "--instruction", tmp_path / "none")
    assert not obedient.asked
    assert asked(vlv, pictures, tmp_path / "out", obedient).code == 0
    another = refused(pictures, tmp_path / "out", "--temperature", 1)
    assert "another temperature" in another
    assert sum(obedient.paid.values()) == 12


def test_bad_images_stop_no_other_and_equal_ones_are_paid_once(
    vlv: Callable, tmp_path: Path, obedient: Teacher
) -> None:
    pictures = make_pictures(tmp_path / "pictures", 3)
    (pictures / "sub").mkdir()
    (pictures / "sub" / "same.png").write_bytes((pictures / "0000.png").read_bytes())
    (pictures / "broken.png").write_bytes(b"no image")
    (pictures / "metadata.jsonl").write_text('{"file_name": "0001.png", "text": "old", "id": 7}\n{')
    ran = asked(vlv, pictures, tmp_path / "out", obedient, "--output-format", "folder")
    assert ran.code == 1 and "broken.png" in ran.err
    assert sum(obedient.paid.values()) == 3
    samples = {sample.key: sample for sample in read_set(tmp_path / "out")}
    assert set(samples) == {"0000", "0001", "0002", "sub/same"}
    assert samples["0000"].caption == samples["sub/same"].caption


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_shards_and_tables_keep_their_images_and_meta_data(
    vlv: Callable, tmp_path: Path, obedient: Teacher, format: str
) -> None:
    pictures = make_pictures(tmp_path / "pictures", 5)
    old = [
        Sample(path.stem, path.read_bytes(), ".png", "old", {"width": 16})
        for path in sorted(pictures.iterdir())
    ]
    write_set(iter(old), tmp_path / "set", format=format, shard_size=2)
    flags = ("--output-format", format, "--shard-size", 3)
    assert asked(vlv, tmp_path / "set", tmp_path / "out", obedient, *flags).code == 0
    new = list(read_set(tmp_path / "out"))
    assert [one.image for one in new] == [one.image for one in old]
    assert [one.meta["source_caption"] for one in new] == ["old"] * 5
    assert [one.meta["width"] for one in new] == [16] * 5
    assert all(one.caption and "glossy red sphere" in one.caption for one in new)


@pytest.mark.parametrize("format", ["folder", "webdataset", "parquet"])
def test_any_names_are_written_after_they_were_paid(
    vlv: Callable, tmp_path: Path, obedient: Teacher, format: str
) -> None:
    """Dots, one name for two images, and a name that is no text."""
    source = tmp_path / "pictures"
    source.mkdir()
    for at, name in enumerate((b"a.1.png", b"a.jpg", b"a.png", b"b\xff.png")):
        image = Image.new("RGB", (16, 12), (60 * at, 0, 90))
        image.save(source / os.fsdecode(name), format="PNG")
    flags = ("--output-format", format)
    assert asked(vlv, source, tmp_path / "out", obedient, *flags).code == 0
    found = list(read_set(tmp_path / "out"))
    assert len({one.key for one in found}) == len({one.caption for one in found}) == 4
    assert all(one.meta["teacher"]["model"] == "tutor" for one in found)
    assert asked(vlv, source, tmp_path / "lines", obedient).code == 0
    names = {os.path.relpath(path, source) for path in source.iterdir()}
    assert set(captions(tmp_path / "lines")) == names


def test_an_older_result_is_not_mixed_with_a_new_one(
    vlv: Callable, pictures: Path, tmp_path: Path, obedient: Teacher
) -> None:
    out = tmp_path / "out"
    flags = ("--output-format", "webdataset", "--shard-size")
    assert asked(vlv, pictures, out, obedient, *flags, 3).code == 0
    assert asked(vlv, pictures, out, obedient, *flags, 5).code == 0
    assert len(list(read_set(out))) == 12 and len(list(out.glob("*.tar"))) == 3
    ran = asked(vlv, pictures, out, obedient, "--output-format", "parquet")
    assert ran.code == 2 and "layout webdataset" in ran.err and "vlv data convert" in ran.err
    assert sum(obedient.paid.values()) == 12


@pytest.mark.parametrize("format", ["jsonl", "folder", "webdataset", "parquet"])
def test_an_image_that_is_gone_leaves_every_result(
    vlv: Callable, tmp_path: Path, obedient: Teacher, format: str
) -> None:
    source, out = make_pictures(tmp_path / "pictures", 4), tmp_path / "out"
    flags = ("--output-format", format, "--shard-size", 2)
    assert asked(vlv, source, out, obedient, *flags).code == 0
    gone = [(path, path.read_bytes()) for path in sorted(source.iterdir())[1:3]]
    for path, _ in gone:
        path.unlink()
    Image.new("RGB", (16, 12), "white").save(source / "0002.jpg")  # has the caption file 0002.txt

    def names() -> set[str]:
        if format == "jsonl":
            return set(captions(out))
        return {one.file_name for one in read_set(out)}

    if format == "folder":
        (out / "own.png").write_bytes(b"not of this command")
        (out / "own.txt").write_text("a caption")
    own = {"own.png"} if format == "folder" else set()
    assert asked(vlv, source, out, obedient, *flags).code == 0
    assert names() == {"0000.png", "0002.jpg", "0003.png"} | own
    if format == "folder":
        left = {path.name for path in out.glob("*.txt")}
        assert left == {"0000.txt", "0002.txt", "0003.txt", "own.txt"}
    for path, data in gone:
        path.write_bytes(data)
    assert asked(vlv, source, out, obedient, *flags).code == 0
    assert len(names() - own) == 5
    assert sum(obedient.paid.values()) == 5  # an image that is back is not paid again


def killed_runs(pictures: Path, target: Path, teacher: Teacher, kills: int, images: int) -> None:
    """Start the command, kill it while answers are on their way, and so on; then let it end."""
    command = [*VLV, "data", "caption", str(pictures), str(target)]
    command += ["--base-url", teacher.url, "--model", "tutor", "--concurrency", "4"]
    for kill in range(kills + 1):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        goal = (kill + 1) * images // (kills + 1)
        while kill < kills and process.poll() is None and sum(teacher.paid.values()) < goal:
            time.sleep(0.005)
        if kill < kills:
            process.kill()
            process.communicate()
        else:
            _, err = process.communicate()
            assert process.returncode == 0, err


@pytest.mark.parametrize(
    ("kills", "images"), [(2, 40), pytest.param(10, 300, marks=pytest.mark.slow)]
)
def test_kills_lose_no_caption_and_pay_nothing_twice(
    tmp_path: Path, kills: int, images: int
) -> None:
    pictures = make_pictures(tmp_path / "pictures", images)
    numbers = count(1)

    def script(image: str, request: int) -> Reply:
        if next(numbers) % 9 == 0:
            return Reply("busy", "", 503)
        return Reply(good_caption(image), delay=0.02)

    with running(script) as teacher:
        killed_runs(pictures, tmp_path / "out", teacher, kills, images)
    found = captions(tmp_path / "out")
    assert len(found) == images == len(set(found.values()))
    # A kill loses at most what was on its way: four requests.
    assert images <= sum(teacher.paid.values()) <= images + 4 * kills
    assert sum(teacher.paid.values()) > images  # the kills came while answers were on their way


def test_a_signal_waits_for_what_is_paid(tmp_path: Path) -> None:
    images = 120  # many more than are asked before the signal comes, however late it does
    pictures = make_pictures(tmp_path / "pictures", images)
    with running(lambda image, _: Reply(good_caption(image), delay=0.2)) as teacher:
        command = [*VLV, "data", "caption", str(pictures)]
        command += [str(tmp_path / "out"), "--base-url", teacher.url, "--model", "tutor", "--json"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
        )
        until(lambda: sum(teacher.paid.values()) >= 9 or process.poll() is not None, 120)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
    summary = json.loads(out.splitlines()[-1])
    assert process.returncode == 143, err
    assert summary["captions"] == sum(teacher.paid.values()) < images
    assert "SIGTERM" in summary["stopped"]
    assert summary["not_asked"] == images - summary["captions"]


def test_old_captions_that_are_no_text_are_replaced(pictures: Path) -> None:
    (pictures / "metadata.jsonl").write_text('{"file_name": "0000.png", "text": 5}\n')
    found = dict(dataset_items(pictures))
    assert len(found) == 12 and all(isinstance(sample, Sample) for sample in found.values())
