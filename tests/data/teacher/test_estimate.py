"""What a teacher will take is estimated from a sample, and said to be an estimate."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vlv.data.samples import Sample
from vlv.data.sets import write_set
from vlv.endpoints.budget import image_tokens

# Nobody listens there.
NOWHERE = ("--base-url", "http://127.0.0.1:9/v1", "--model", "tutor")


def write(folder: Path, layout: str, count: int, side: int) -> Path:
    def many():  # type: ignore[no-untyped-def]
        for at in range(count):
            file = io.BytesIO()
            Image.new("RGB", (side, side), (at % 256, at // 256, 9)).save(file, "PNG")
            yield Sample(f"{at:05d}", file.getvalue(), ".png", "A.")

    write_set(many(), folder, format=layout, shard_size=100)
    return folder


@pytest.mark.parametrize("layout", ["folder", "webdataset", "parquet"])
def test_of_many_images_a_sample_is_read(vlv: Callable, tmp_path: Path, layout: str) -> None:
    source = write(tmp_path / "in", layout, 450, 16)
    if layout == "webdataset":
        for stats in source.glob("*.json"):
            stats.unlink()  # then headers are counted
    ran = vlv("data", "caption", source, tmp_path / "out", *NOWHERE, "--dry-run", "--json")
    assert ran.code == 0
    found = json.loads(ran.out)
    assert (found["images"], found["left"]) == (450, 450)
    assert 150 <= found["sampled"] <= 250
    assert found["tokens"] > 0
    assert f"about 450 of 450 images to caption, about {found['tokens']:,} tokens" in ran.err
    assert f"an estimate from {found['sampled']} images" in ran.err


def test_few_images_are_all_read(vlv: Callable, tmp_path: Path) -> None:
    source = write(tmp_path / "in", "folder", 20, 16)
    (source / "00003.png").write_bytes(b"")
    ran = vlv("data", "caption", source, tmp_path / "out", *NOWHERE, "--dry-run")
    assert "vlv: 20 of 20 images to caption" in ran.err
    assert "an estimate from 20 images" in ran.err


def test_larger_images_take_more_tokens(vlv: Callable, tmp_path: Path) -> None:
    tokens = []
    for side in (64, 512):
        source = write(tmp_path / str(side), "folder", 3, side)
        target = tmp_path / f"out-{side}"
        ran = vlv("data", "caption", source, target, *NOWHERE, "--dry-run", "--json")
        tokens.append(json.loads(ran.out)["tokens"])
    assert tokens[1] - tokens[0] == pytest.approx(3 * (400 - 85), abs=2)
    assert image_tokens(4000, 4000, 1024) == image_tokens(1024, 1024, 1024) == 1600


def test_most_images_are_not_opened(
    vlv: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "in", "folder", 1000, 4)
    opened = []
    before = os.fstat

    def counting(file: int) -> os.stat_result:
        opened.append(file)
        return before(file)

    monkeypatch.setattr("vlv.data.images.os.fstat", counting)
    assert vlv("data", "caption", source, tmp_path / "out", *NOWHERE, "--dry-run").code == 0
    assert 150 <= len(opened) <= 300
