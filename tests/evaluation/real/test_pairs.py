"""`vlv eval pairs`: a model on photographs that have captions."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.evaluation.real.killed import finish, kill_when
from tests.evaluation.real.photographs import CAPTIONS, photograph, save_photographs
from tests.tiny import CAPTIONS as PLAIN
from tests.tiny import plain

from vlv.data.sets import read_set, write_set
from vlv.data.world_sets import world_samples
from vlv.evaluation.metrics.clip_score import CLIPScore, clip_scores
from vlv.evaluation.real.captions_file import read_captions
from vlv.evaluation.real.pairs import DIFFERENCES, LENGTHS, ONE_REFERENCE, OTHER_IMAGE, SCORES
from vlv.evaluation.results import Result, read_result
from vlv.pipeline import VLV

Run = Callable[..., Any]


def write_captions(file: Path, texts: dict[str, str]) -> Path:
    records = [{"file_name": name, "text": text} for name, text in texts.items()]
    file.write_text("".join(json.dumps(one) + "\n" for one in records))
    return file


def first_references() -> dict[str, str]:
    return {f"{name}.png": texts[0] for name, texts in CAPTIONS.items()}


def figures(result: Result, name: str, part: str = SCORES) -> dict[str, float]:
    row = result.row(part=part, captions=name)
    return {figure: value.value for figure, value in row.figures.items()}


@pytest.fixture
def learned(tmp_path: Path) -> Path:
    """The pictures that the tiny model has learned, and their captions."""
    folder = tmp_path / "learned"
    folder.mkdir()
    for color, text in PLAIN.items():
        plain(color).save(folder / f"{color}.png")
        (folder / f"{color}.txt").write_text(text)
    return folder


def test_a_model_that_learned_its_captions_is_measured_so(
    vlv: Run, learned: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ran = vlv("eval", "pairs", learned, "--model", f"mine={tiny_model_dir}", "--out", out)
    assert ran.code == 0, ran.err
    result = read_result(out / "result.json")
    mine, control = figures(result, "mine"), figures(result, OTHER_IMAGE)
    assert mine["bleu_4"] == pytest.approx(1) and mine["rouge_l"] == pytest.approx(1)
    assert mine["cider"] > 5 and control["cider"] < 1
    assert "loss per token" in ran.out and "pairs.html" in ran.out
    # The loss is that of the caption decoder, image by image, weighed by tokens.
    model = VLV.from_pretrained(tiny_model_dir)
    nats = tokens = 0.0
    with torch.no_grad():
        for color, text in PLAIN.items():
            ids, lengths = model.caption_decoder.tokenise([text])
            read = model.read(model.encode(plain(color)))
            nats += float(model.caption_decoder(read, ids, lengths)) * int(lengths)
            tokens += int(lengths)
    assert mine["caption_loss"] == pytest.approx(nats / tokens, rel=1e-4)
    assert mine["caption_loss"] < 0.1
    before = {file: file.stat().st_mtime_ns for file in (out / "captions").glob("*.jsonl")}
    assert len(before) == 2  # captions and losses
    again = vlv("eval", "pairs", learned, "--model", f"mine={tiny_model_dir}", "--out", out)
    assert again.code == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before  # nothing is computed again
    # A picture that was replaced under its name has another caption and another loss.
    red, other = list(PLAIN)[:2]
    plain(other).save(learned / f"{red}.png")
    changed = vlv("eval", "pairs", learned, "--model", f"mine={tiny_model_dir}", "--out", out)
    assert changed.code == 0
    replaced = figures(read_result(out / "result.json"), "mine")
    assert replaced["bleu_4"] < mine["bleu_4"] and replaced["caption_loss"] > mine["caption_loss"]
    captions = {
        name: line.text for name, line in read_captions(out / "captions/mine.jsonl").items()
    }
    assert captions[f"{red}.png"] == PLAIN[other]
    # Its earlier caption counts for no other command either.
    file = out / "captions" / "mine.jsonl"
    plain(red).save(learned / f"{red}.png")
    left = vlv("eval", "pairs", learned, "--captions", file, "--out", tmp_path / "other")
    assert left.code == 1 and f"{red}.png: there is no caption by mine" in left.err


def test_captioners_are_compared_over_the_same_images(
    vlv: Run, photographs: Path, tmp_path: Path
) -> None:
    good = first_references()
    poor = dict.fromkeys(good, "A picture.") | {"rocket.png": good["rocket.png"]}
    del poor["coffee.png"]
    command = ["eval", "pairs", photographs, "--out", tmp_path / "out", "--json"]
    for name, texts in (("good", good), ("poor", poor)):
        file = write_captions(tmp_path / f"{name}.jsonl", texts)
        command += ["--captions", f"{name}={file}"]
    ran = vlv(*command)
    assert ran.code == 1 and "coffee.png: there is no caption by poor" in ran.err
    result = read_result(tmp_path / "out" / "result.json")
    assert (
        json.loads(ran.out)["rows"]
        == json.loads((tmp_path / "out" / "result.json").read_text())["rows"]
    )
    rows = {str(row.labels["captions"]): row for row in result.rows if row.labels["part"] == SCORES}
    assert rows["good"].count == rows["poor"].count == 5
    difference = result.row(part=DIFFERENCES, captions="poor").figures["rouge_l"]
    assert difference.high < 0
    assert difference.value == pytest.approx(
        figures(result, "poor")["rouge_l"] - figures(result, "good")["rouge_l"]
    )
    # Two photographs have two captions each, which are compared with one another.
    assert rows[ONE_REFERENCE].count == 2
    lengths = figures(result, "poor", LENGTHS)
    assert lengths["words"] == pytest.approx((4 * 2 + 9) / 5)
    assert lengths["same_text"] == pytest.approx(4 / 5) and lengths["vocabulary"] == 10
    assert any("1 image without a caption by poor" in note for note in result.notes)


def test_all_captions_of_an_image_are_references(
    vlv: Run, photographs: Path, tmp_path: Path
) -> None:
    second = {f"{name}.png": texts[-1] for name, texts in CAPTIONS.items()}
    file = write_captions(tmp_path / "second.jsonl", second)
    ran = vlv("eval", "pairs", photographs, "--captions", file, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    result = read_result(tmp_path / "out" / "result.json")
    assert figures(result, "second")["bleu_4"] == pytest.approx(1)


def test_clip_score_is_that_of_the_paper(
    vlv: Run, photographs: Path, clip_dir: Path, tmp_path: Path
) -> None:
    texts = first_references()
    file = write_captions(tmp_path / "one.jsonl", texts)
    (photographs / "broken.png").write_bytes(b"no image")
    (photographs / "broken.txt").write_text("Nothing can be seen.")
    command = ("eval", "pairs", photographs, "--captions", file, "--clip", clip_dir)
    ran = vlv(*command, "--out", tmp_path / "out")
    assert ran.code == 1 and "broken.png" in ran.err
    found = figures(read_result(tmp_path / "out" / "result.json"), "one")["clip_score"]
    clip = CLIPScore(str(clip_dir))
    assert clip.about["clip"] == str(clip_dir)
    model, processor = clip._model, clip._processor
    scores = []
    for name, text in texts.items():
        with torch.no_grad():
            given = processor(
                text=[f"A photo depicts {text}"],
                images=photograph(Path(name).stem),
                return_tensors="pt",
            )
            out = model(**given)
        cosine = float((out.image_embeds * out.text_embeds).sum())
        scores.append(2.5 * max(cosine, 0))
    assert found == pytest.approx(np.mean(scores), rel=1e-4)
    unit = np.array([[1.0, 0.0]])
    assert clip_scores(unit, -unit).tolist() == [0.0]
    assert vlv(*command[:-1], tmp_path / "nowhere", "--out", tmp_path / "out").code == 3


def test_a_siglip_scores_a_caption_alike_whatever_is_beside_it(
    siglip_dir: Path, clip_dir: Path
) -> None:
    short, long = "The floor is gray", "Two green cones stand at the back on a brown floor"
    for folder in (siglip_dir, clip_dir):
        scorer = CLIPScore(str(folder), "cpu")
        alone, together = scorer.captions([short]), scorer.captions([short, long])
        assert np.allclose(alone[0], together[0], atol=1e-6)
        assert not np.allclose(together[0], together[1], atol=1e-3)


def test_the_page_shows_the_best_the_worst_and_some_as_text(
    vlv: Run, photographs: Path, tmp_path: Path
) -> None:
    texts = first_references() | {"horse.png": "<script>alert(1)</script> & a horse"}
    file = write_captions(tmp_path / "one.jsonl", texts)
    assert (
        vlv("eval", "pairs", photographs, "--captions", file, "--out", tmp_path / "out").code == 0
    )
    page = (tmp_path / "out" / "pairs.html").read_text()
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt; &amp; a horse" in page
    sections = re.split("<h2>", page)[-3:]
    names = [re.findall(r"<h3>(.*?)</h3>", section) for section in sections]
    assert sections[0].startswith("Highest CIDEr of one")
    assert names[0] == names[1][::-1] and sorted(names[2]) == sorted(texts)
    assert names[1][0] == "horse.png"
    assert page.count("data:image/jpeg;base64,") == 18
    assert "http" not in page


def test_shards_and_metadata_find_their_captions(vlv: Run, tmp_path: Path) -> None:
    """Scenes of the world in a shard: captions files name the shard, references do not."""
    shards = tmp_path / "shards"
    write_set(world_samples(4), shards, format="webdataset")
    captions = tmp_path / "captions.jsonl"
    texts = {f"00000.tar/{one.file_name}": str(one.caption) for one in read_set(shards)}
    write_captions(captions, texts)
    ran = vlv("eval", "pairs", shards, "--captions", captions, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    result = read_result(tmp_path / "out" / "result.json")
    assert figures(result, "captions")["bleu_1"] == pytest.approx(1)
    assert result.row(part=SCORES, captions="captions").count == 4


def test_what_cannot_be_measured_is_said(
    vlv: Run, photographs: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "out")
    assert vlv("eval", "pairs", photographs, *out).code == 2
    twice = vlv("eval", "pairs", photographs, "--model", "a/b", "--model", "c/b", *out)
    assert twice.code == 2 and "two models are called b" in twice.err
    bare = save_photographs(tmp_path / "bare", captions=False)
    file = write_captions(tmp_path / "one.jsonl", first_references())
    ran = vlv("eval", "pairs", bare, "--captions", file, *out)
    assert ran.code == 1 and "no image" in ran.err and "has a caption to compare with" in ran.err
    other = write_captions(tmp_path / "other.jsonl", {"elsewhere.png": "A dog."})
    ran = vlv("eval", "pairs", photographs, "--captions", other, *out)
    assert ran.code == 1 and "elsewhere.png" in ran.err
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    assert vlv("eval", "pairs", photographs, "--captions", tmp_path / "one.png", *out).code == 1
    lines = file.read_text()
    file.write_text(lines + lines.splitlines()[0] + "\n")  # the same caption again
    assert vlv("eval", "pairs", photographs, "--captions", file, *out).code == 0
    name = json.loads(lines.splitlines()[0])["file_name"]
    file.write_text(lines + json.dumps({"file_name": name, "text": "Another one."}) + "\n")
    ran = vlv("eval", "pairs", photographs, "--captions", file, *out)
    assert ran.code == 1 and f"is a second caption of {name}" in ran.err


def test_kills_lose_no_caption_and_compute_nothing_twice(
    vlv: Run, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Killed among the captions, then among the losses of the references."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(32):
        color = list(PLAIN)[number % 3]
        plain(color, (32 + number, 32)).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(PLAIN[color])
    command = ["eval", "pairs", folder, "--model", f"mine={tiny_model_dir}", "--batch-size", 1]
    words = [*command, "--num-beams", 1, "--json", "--out", tmp_path / "out"]
    captions = tmp_path / "out" / "captions" / "mine.jsonl"
    losses = captions.with_suffix(".loss.jsonl")

    def lines(file: Path) -> list[bytes]:
        return file.read_bytes().splitlines(keepends=True) if file.exists() else []

    kept = []
    for file in (captions, losses):
        kill_when(words, lambda file=file: len(lines(file)) >= 8)
        kept.append([line for line in lines(file) if line.endswith(b"\n")])
        assert 8 <= len(kept[-1]) < 32
    result = json.loads(finish(words))
    for file, before in zip((captions, losses), kept, strict=True):
        after = lines(file)
        # Each line has the time that it took, and is the one that was written first.
        assert after[: len(before)] == before and len(after) == 32
        assert len({json.loads(line)["file_name"] for line in after}) == 32
    whole = json.loads(vlv(*words[:-1], tmp_path / "whole").out)
    assert result["rows"] == whole["rows"]
