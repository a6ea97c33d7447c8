"""`vlv eval captions`: captions of photographs by every kind of captioner, once."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests import launcher
from tests.data.teacher.server import (
    COMPLETION_TOKENS,
    PROMPT_TOKENS,
    Reply,
    Teacher,
    good_caption,
    running,
)
from tests.evaluation.real.photographs import CAPTIONS
from tests.tiny import CAPTIONS as PLAIN
from tests.tiny import plain
from transformers import AutoTokenizer

from vlv.evaluation.real.captions_file import read_captions

Run = Callable[..., Any]
NAMES = {f"{name}.png" for name in CAPTIONS}
VLV = (sys.executable, "-m", "vlv.cli")
LOOP = "a red ball and " * 30


def lines(file: Path) -> dict[str, dict[str, Any]]:
    records = [json.loads(line) for line in file.read_text().splitlines()]
    found = {record["file_name"]: record for record in records}
    assert len(found) == len(records), "an image has two lines"
    return found


def sidecar(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.with_suffix(".provenance.json").read_text())
    return found


def test_ours_captions_a_set_once(
    vlv: Run, photographs: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "ours.jsonl"
    command = ("eval", "captions", photographs, "--captioner", tiny_model_dir, "--out", out)
    first = vlv(*command, "--limit", 2, "--json")
    assert first.code == 0, first.err
    assert json.loads(first.out)["written"] == 2
    begun = out.read_text()
    ran = vlv(*command, "--json")
    assert ran.code == 0, ran.err
    summary = json.loads(ran.out)
    assert (summary["written"], summary["known"], summary["captions"]) == (4, 2, 6)
    # Lines are only added.
    assert out.read_text().startswith(begun)
    found = lines(out)
    assert found.keys() == NAMES
    for line in found.values():
        assert line["text"] and line["captioner"] == str(tiny_model_dir)
        assert line["seconds"] > 0 and line["completion_tokens"] > 0 and "usd" not in line
    about = sidecar(out)
    assert about["captioner"]["num_beams"] == 4 and len(about["captioner"]["sha256"]) == 64
    assert about["totals"]["captions"] == 6 and about["refused"] == {}
    # The same captions as `vlv caption` writes.
    same = vlv("caption", photographs, "--model", tiny_model_dir, "--batch-size", 1)
    printed = dict(line.split("\t") for line in same.out.splitlines())
    assert {Path(name).name: text for name, text in printed.items()} == {
        name: line["text"] for name, line in found.items()
    }


def test_a_picture_that_was_replaced_is_captioned_again(
    vlv: Run, photographs: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Under the same name; one that cannot be captioned any more has no caption."""
    out = tmp_path / "ours.jsonl"
    command = ("eval", "captions", photographs, "--captioner", tiny_model_dir, "--out", out)
    assert vlv(*command).code == 0
    before = lines(out)
    color = next(one for one, text in PLAIN.items() if text != before["coffee.png"]["text"])
    plain(color).save(photographs / "coffee.png")
    (photographs / "horse.png").write_bytes(b"no image")
    ran = vlv(*command, "--json")
    summary = json.loads(ran.out.splitlines()[-1])
    assert ran.code == 1 and (summary["written"], summary["known"]) == (1, 4)
    after = lines(out)
    assert after.keys() == NAMES - {"horse.png"}
    assert after["coffee.png"]["text"] == PLAIN[color]
    kept = after.keys() - {"coffee.png"}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    # What a killed run leaves: both lines, of which the later one counts.
    with out.open("a") as file:
        file.write(json.dumps(before["coffee.png"]) + "\n")
    assert read_captions(out)["coffee.png"].text == before["coffee.png"]["text"]
    assert vlv(*command).code == 1
    assert lines(out)["coffee.png"]["text"] == PLAIN[color]


def test_damaged_images_are_named_and_the_rest_is_captioned(
    vlv: Run, photographs: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    (photographs / "broken.png").write_bytes(b"no image")
    out = tmp_path / "ours.jsonl"
    ran = vlv("eval", "captions", photographs, "--captioner", tiny_model_dir, "--out", out)
    assert ran.code == 1
    assert "unknown-format: broken.png is no image in" in ran.err and "1 failed" in ran.out
    assert lines(out).keys() == NAMES
    assert list(sidecar(out)["refused"]) == ["broken.png"]


def test_wrong_use_and_missing_models_have_their_codes(
    vlv: Run, photographs: Path, tiny_model_dir: Path, clip_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "ours.jsonl"
    command = ("eval", "captions", photographs, "--out", out, "--captioner")
    assert vlv(*command, tiny_model_dir, "--limit", 1).code == 0
    other = vlv(*command, tiny_model_dir, "--num-beams", 2)
    assert other.code == 2 and "was begun with another num_beams" in other.err
    # Another set may have images of the same names.
    shutil.copytree(photographs, tmp_path / "others")
    elsewhere = vlv("eval", "captions", tmp_path / "others", *command[3:], tiny_model_dir)
    assert elsewhere.code == 2 and "was begun for the images of" in elsewhere.err
    assert vlv(*command, tiny_model_dir, "--limit", 1).code == 0
    foreign = tmp_path / "metadata.jsonl"
    foreign.write_text('{"file_name": "astronaut.png", "text": "mine"}\n')
    taken = vlv("eval", "captions", photographs, "--captioner", tiny_model_dir, "--out", foreign)
    assert taken.code == 2 and "name another file" in taken.err
    assert vlv(*command, "endpoint").code == 2
    assert vlv(*command, tiny_model_dir, "--prompt", "Describe it").code == 2
    assert vlv(*command, tmp_path / "nowhere").code == 3
    ran = vlv(*command, tiny_model_dir, "--temperature", "inf")
    assert ran.code == 2 and "inf is not a finite number" in ran.err
    clip = vlv(*command, clip_dir)
    assert clip.code == 3 and "image-text-to-text" in clip.err
    nothing = vlv("eval", "captions", tmp_path / "no", "--captioner", "vlv-mini", "--out", out)
    assert nothing.code == 1 and "there is no file or folder" in nothing.err


def test_florence_gets_its_task_and_a_chat_model_the_instruction(
    vlv: Run, photographs: Path, florence_dir: Path, llava_dir: Path, tmp_path: Path
) -> None:
    prompts = {florence_dir: "<MORE_DETAILED_CAPTION>", llava_dir: "Write one detailed caption"}
    for folder, prompt in prompts.items():
        out = tmp_path / f"{folder.name}.jsonl"
        flags = ("--limit", 2, "--max-new-tokens", 6, "--num-beams", 2)
        ran = vlv("eval", "captions", photographs, "--captioner", folder, "--out", out, *flags)
        assert ran.code == 0, ran.err
        about = sidecar(out)["captioner"]
        assert about["prompt"].startswith(prompt) and about["kind"] == "transformers"
        for line in lines(out).values():
            assert 0 < line["completion_tokens"] <= 7
            assert line["prompt_tokens"] > 17  # those of the image are among them
            assert "<" not in line["text"]


def test_a_tokenizer_without_padding_counts_all_tokens(
    vlv: Run, photographs: Path, llava_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "llava"
    shutil.copytree(llava_dir, folder)
    for file in folder.glob("*.json"):
        settings = json.loads(file.read_text())
        if settings.pop("pad_token", None):
            file.write_text(json.dumps(settings))
    assert AutoTokenizer.from_pretrained(folder).pad_token_id is None
    out = tmp_path / "out.jsonl"
    flags = ("--limit", 1, "--max-new-tokens", 6, "--num-beams", 1)
    ran = vlv("eval", "captions", photographs, "--captioner", folder, "--out", out, *flags)
    assert ran.code == 0, ran.err
    (line,) = lines(out).values()
    assert 0 < line["completion_tokens"] <= 7


def test_samples_depend_on_the_seed_and_the_image_alone(
    vlv: Run, photographs: Path, tiny_model_dir: Path, llava_dir: Path, tmp_path: Path
) -> None:
    for folder in (tiny_model_dir, llava_dir):
        found = []
        for number, runs in enumerate([(["--limit", 1], []), ([],), (["--seed", 1],)]):
            out = tmp_path / f"{folder.name}-{number}.jsonl"
            for more in runs:
                flags = ("--temperature", 1.5, "--max-new-tokens", 8, *more)
                command = ("eval", "captions", photographs, "--captioner", folder, "--out", out)
                assert vlv(*command, *flags).code == 0
            found.append({name: line["text"] for name, line in lines(out).items()})
        assert found[0] == found[1] != found[2]


def test_an_endpoint_is_asked_once_and_taken_at_its_word(
    vlv: Run, photographs: Path, tmp_path: Path
) -> None:
    """A loop is the caption of a model that loops; a withheld answer is none."""
    shutil.copy(photographs / "coffee.png", photographs / "again.png")

    def script(image: str, _: int) -> Reply:
        number = len(teacher.paid)
        if number == 0:
            return Reply(LOOP)
        return Reply("no", "content_filter") if number == 1 else Reply(good_caption(image))

    with running(script) as teacher:
        out = tmp_path / "teacher.jsonl"
        command = _asked(photographs, out, teacher)
        ran = vlv(*command, "--input-price", 1, "--output-price", 10, "--concurrency", 1)
        assert ran.code == 1, ran.err
        assert "refusal: " in ran.err
        found = lines(out)
        texts = [line["text"] for line in found.values()]
        assert LOOP.strip() in texts
        assert sum(teacher.paid.values()) == len(CAPTIONS)  # the copy is not paid for again
        price = (PROMPT_TOKENS * 1 + COMPLETION_TOKENS * 10) / 1e6
        for line in found.values():
            assert line["seconds"] > 0 and line["usd"] == pytest.approx(price)
            assert line["completion_tokens"] == COMPLETION_TOKENS
        assert all(body["seed"] == 3 for body in teacher.bodies)
        again = vlv(*command, "--input-price", 1, "--output-price", 10)
        assert again.code == 1 and sum(teacher.paid.values()) == len(CAPTIONS)
        assert lines(out) == found
        # A picture that was replaced under its name is another one.
        answered = next(name for name, line in found.items() if line["text"] == LOOP.strip())
        plain("red").save(photographs / answered)
        assert vlv(*command).code == 1 and sum(teacher.paid.values()) == len(CAPTIONS) + 1
        assert lines(out)[answered]["text"] != LOOP.strip()


def test_a_killed_run_pays_for_nothing_twice(photographs: Path, tmp_path: Path) -> None:
    with running(lambda image, _: Reply(good_caption(image), delay=0.15)) as teacher:
        out = tmp_path / "teacher.jsonl"
        command = [*VLV, *map(str, _asked(photographs, out, teacher)), "--concurrency", "1"]
        _killed_after_a_line(command, out)
        ended = launcher.run(command, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr
        assert lines(out).keys() == NAMES
        # The request that was on its way when the process was killed may have been answered.
        assert sum(teacher.paid.values()) <= len(CAPTIONS) + 1


def test_a_signal_waits_for_what_is_paid(photographs: Path, tmp_path: Path) -> None:
    with running(lambda image, _: Reply(good_caption(image), delay=0.3)) as teacher:
        out = tmp_path / "teacher.jsonl"
        command = [*VLV, *map(str, _asked(photographs, out, teacher)), "--concurrency", "2"]
        process = launcher.Popen(command, stderr=subprocess.PIPE, text=True)
        while not sum(teacher.paid.values()):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 143, err
        assert "SIGTERM ended the run" in err
        assert len(lines(out)) == sum(teacher.paid.values()) < len(CAPTIONS)


def test_a_killed_run_of_a_model_goes_on_where_it_ended(
    vlv: Run, photographs: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    for number in range(20):
        shutil.copy(photographs / "coffee.png", photographs / f"more-{number}.png")
    whole, out = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    flags = ("--captioner", tiny_model_dir, "--batch-size", 1)
    assert vlv("eval", "captions", photographs, *flags, "--out", whole).code == 0
    command = [*VLV, "eval", "captions", photographs, *flags, "--out", out]
    _killed_after_a_line([str(word) for word in command], out)
    with open(out, "a") as file:
        file.write('{"file_name": "cof')  # as a power cut may leave it
    ran = vlv("eval", "captions", photographs, *flags, "--out", out, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["known"] >= 1
    texts = [{name: one["text"] for name, one in lines(file).items()} for file in (whole, out)]
    assert texts[0] == texts[1]


def _asked(source: Path, out: Path, teacher: Teacher) -> tuple[object, ...]:
    where = ("--base-url", teacher.url, "--model", "tutor", "--seed", 3)
    return ("eval", "captions", source, "--captioner", "endpoint", "--out", out, *where)


def _killed_after_a_line(command: list[str], out: Path) -> None:
    process = launcher.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 300
        while not (out.exists() and out.stat().st_size):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
