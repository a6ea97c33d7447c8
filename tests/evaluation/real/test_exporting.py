"""`vlv eval export`: each benchmark's own form."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools.coco import COCO
from tests.evaluation.real.photographs import CAPTIONS

Run = Callable[..., Any]
NAMES = {
    "captionqa": ("nat_001.jpg", "nat_001"),
    "comprecap": ("000000000802.jpg", "000000000802.jpg"),
    "caparena": ("all_images/test_02765.jpg", "test_02765.jpg"),
}


def captions(tmp_path: Path, *names: str) -> Path:
    file = tmp_path / "captions.jsonl"
    records = [{"file_name": name, "text": f"A picture of {name}"} for name in names]
    file.write_text("".join(json.dumps(one) + "\n" for one in records))
    return file


@pytest.mark.parametrize("format", NAMES)
def test_a_caption_stands_under_the_name_that_the_benchmark_uses(
    vlv: Run, tmp_path: Path, format: str
) -> None:
    name, key = NAMES[format]
    out = tmp_path / "out.json"
    file = captions(tmp_path, name)
    ran = vlv("eval", "export", file, "--format", format, "--out", out)
    assert ran.code == 0, ran.err
    assert json.loads(out.read_text()) == {key: f"A picture of {name}"}


def test_references_stand_beside_captions_where_a_metric_takes_both(
    vlv: Run, photographs: Path, tmp_path: Path
) -> None:
    file, out = captions(tmp_path, "chelsea.png", "elsewhere.png"), tmp_path / "out.json"
    command = ("eval", "export", file, "--out", out, "--format")
    assert vlv(*command, "posh").code == 2
    assert vlv(*command, "captionqa", "--references", photographs).code == 2
    ran = vlv(*command, "detailcaps", "--references", photographs)
    assert ran.code == 0 and "1 of images without a reference left out" in ran.out
    found = json.loads(out.read_text())
    assert found["preds"] == {"chelsea.png": ["A picture of chelsea.png"]}
    assert found["refs"] == {"chelsea.png": list(CAPTIONS["chelsea"])}
    assert vlv(*command, "posh", "--references", photographs).code == 0
    found = json.loads(out.read_text())
    assert found["generations"] == ["A picture of chelsea.png"]
    assert found["references"] == [CAPTIONS["chelsea"][0]]


def test_coco_reads_its_results(vlv: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    file = captions(tmp_path, "COCO_val2014_000000000042.jpg", "000000000073.jpg")
    assert vlv("eval", "export", file, "--format", "coco", "--out", out).code == 0
    coco = COCO()
    coco.dataset = {"images": [{"id": 42}, {"id": 73}], "annotations": []}
    coco.createIndex()
    read = coco.loadRes(json.loads(out.read_text()))
    assert read.imgToAnns[42][0]["caption"] == "A picture of COCO_val2014_000000000042.jpg"
    ran = vlv("eval", "export", captions(tmp_path, "a.jpg"), "--format", "coco", "--out", out)
    assert ran.code == 1 and "a.jpg ends in no number" in ran.err


def test_references_of_two_images_with_one_name_are_not_mixed_up(vlv: Run, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / "set" / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "set" / folder / "1.png")
        (tmp_path / "set" / folder / "1.txt").write_text(f"A picture in {folder}.")
    file, out = captions(tmp_path, "a/1.png"), tmp_path / "out.json"
    ran = vlv(
        *("eval", "export", file, "--format", "posh", "--references", tmp_path / "set"),
        *("--out", out),
    )
    assert ran.code == 1 and "two images with references would be called 1.png" in ran.err
    assert not out.exists()


def test_two_images_of_one_name_are_refused(vlv: Run, tmp_path: Path) -> None:
    file = captions(tmp_path, "a/one.jpg", "b/one.jpg")
    ran = vlv("eval", "export", file, "--format", "caparena", "--out", tmp_path / "out.json")
    assert ran.code == 1 and "two images would be called one.jpg" in ran.err
    assert not (tmp_path / "out.json").exists()
