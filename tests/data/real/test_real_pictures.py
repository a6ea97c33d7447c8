"""Pictures that no one here made: Debian's stamps of Tux Paint, and drawings of Open Clipart.

`.ci/nightly` fetches the packages and names the folder that holds their files in the environment
variable VLV_REAL_PICTURES; they are not part of this project. `rsvg-convert` draws the SVG files.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.data.teacher.server import Reply, Teacher, good_caption, running

from vlv.data.items import items, origins
from vlv.data.samples import Sample

pytestmark = pytest.mark.slow

STAMPS, DRAWINGS = "usr/share/tuxpaint/stamps", "usr/share/openclipart/svg"
# Of the packages in Debian 12.
STAMP_IMAGES, STAMP_DRAWINGS = 796, 248
# Drawings that are drawn by rsvg-convert, evenly chosen.
_DRAWN = 300


def _folder(name: str) -> Path:
    root = os.environ.get("VLV_REAL_PICTURES")
    assert root, "VLV_REAL_PICTURES names no folder; .ci/nightly makes it out of Debian's packages"
    folder = Path(root) / name
    assert folder.is_dir(), f"{folder} is missing; unpack Debian's package of it there"
    return folder


@pytest.fixture(scope="module")
def stamps() -> Path:
    return _folder(STAMPS)


@pytest.fixture(scope="module")
def drawings() -> Path:
    return _folder(DRAWINGS)


@pytest.fixture
def teacher() -> Iterator[Teacher]:
    with running(lambda image, _: Reply(good_caption(image))) as one:
        yield one


def last(out: str) -> dict:
    """The summary: the last line of JSON."""
    found: dict = json.loads(out.splitlines()[-1])
    return found


def report(name: str, figures: object) -> None:
    print(f"{name}: {json.dumps(figures, ensure_ascii=False)}", file=sys.stderr)


def test_stamps_are_inspected(vlv: Callable, stamps: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    ran = vlv("data", "inspect", stamps, "--json", "--html", page)
    found = last(ran.out)
    report("stamps", found)
    assert ran.code == 1  # its SVG files are named
    assert found["images"] == STAMP_IMAGES
    assert found["refused"] == {"unknown-format": STAMP_DRAWINGS}
    assert found["formats"] == {"PNG": STAMP_IMAGES}
    assert found["captioned"] > 0.95 * STAMP_IMAGES
    assert found["languages"]["en"] > 0.9 * (
        found["languages_of"] - found["languages"]["too short to tell"]
    )
    assert page.read_text(encoding="utf-8").count("<img ") == 48


def test_stamps_are_curated(vlv: Callable, stamps: Path, tmp_path: Path) -> None:
    """Of different pictures hardly any is dropped: one is white on white, one is a copy, and two
    sides of a dreidel differ in a letter.
    """
    found = last(vlv("data", "curate", stamps, tmp_path / "out", "--json").out)
    report("curated stamps", found)
    assert found["samples"] == STAMP_IMAGES
    assert found["dropped"] == {"duplicate": 1, "flat": 1, "near-duplicate": 1}
    lines = (tmp_path / "out" / "dropped.jsonl").read_text("utf-8").splitlines()
    keys = {one["reason"]: one["key"] for one in map(json.loads, lines)}
    assert keys["duplicate"] == "people/fireman240a.png"


def test_stamps_are_converted_and_come_back(vlv: Callable, stamps: Path, tmp_path: Path) -> None:
    sources = [stamps, tmp_path / "shards", tmp_path / "tables", tmp_path / "folder"]
    for source, target, layout in zip(
        sources, sources[1:], ("webdataset", "parquet", "folder"), strict=False
    ):
        flags = ("--output-format", layout, "--shard-size", 100, "--json")
        ran = vlv("data", "convert", source, target, *flags)
        assert ran.code == (1 if source == stamps else 0), ran.err
        assert last(ran.out)["images"] == STAMP_IMAGES
    before, after = (
        sorted(
            (one.sample.image, [" ".join(text.split()) for text in one.sample.texts])
            for one in items(origins([folder]))
            if isinstance(one.sample, Sample) and one.sample.extension == ".png"
        )
        for folder in (stamps, sources[-1])
    )
    assert before == after
    small = vlv("data", "convert", stamps, tmp_path / "small", "--resize", 64, "--json")
    assert last(small.out)["images"] == STAMP_IMAGES
    sizes = {
        one.sample.picture().size
        for one in items(origins([tmp_path / "small"]))
        if isinstance(one.sample, Sample)
    }
    assert sizes == {(64, 64)}


def test_stamps_are_captioned(
    vlv: Callable, stamps: Path, tmp_path: Path, teacher: Teacher
) -> None:
    ask = ("data", "caption", stamps, tmp_path / "out", "--base-url", teacher.url)
    ran = vlv(*ask, "--model", "tutor", "--json")
    found = last(ran.out)
    report("captioned stamps", found)
    assert "an estimate from 200 images" in ran.err
    assert ran.code == 1  # the SVG files
    assert found["captions"] == STAMP_IMAGES
    lines = (tmp_path / "out" / "metadata.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == STAMP_IMAGES
    kept = [json.loads(line) for line in lines]
    assert sum("source_caption" in one for one in kept) > 0.95 * STAMP_IMAGES


def test_drawings_are_refused_by_name(vlv: Callable, drawings: Path, tmp_path: Path) -> None:
    count = sum(1 for path in drawings.rglob("*.svg") if path.is_file())
    assert count > 7000
    for command in (("inspect", drawings), ("convert", drawings, tmp_path / "out")):
        ran = vlv("data", *command, "--json")
        found = last(ran.out)
        report(f"drawings, {command[0]}", {"refused": found["refused"], "svg": count})
        assert ran.code == 1
        assert found["images"] == 0
        assert found["refused"]["unknown-format"] >= 0.9 * count
        assert "Traceback" not in ran.err


def test_drawings_that_are_drawn_go_the_way_of_pictures(
    vlv: Callable, drawings: Path, tmp_path: Path
) -> None:
    program = shutil.which("rsvg-convert")
    assert program, "rsvg-convert is missing; install Debian's librsvg2-bin"
    folder = tmp_path / "drawn"
    folder.mkdir()
    files = sorted(path for path in drawings.rglob("*.svg") if path.is_file())
    drawn = 0
    for number, path in enumerate(files[:: len(files) // _DRAWN]):
        command = [program, "--width=256", "--height=256", "--keep-aspect-ratio", str(path)]
        made = subprocess.run(
            [*command, "--output", str(folder / f"{number:04d}.png")],
            capture_output=True,
            timeout=60,
        )
        drawn += made.returncode == 0
        (folder / f"{number:04d}.txt").write_text(path.stem.replace("_", " ") + "\n")
    assert drawn > 0.9 * _DRAWN
    looked = last(vlv("data", "inspect", folder, "--json").out)
    report("drawn", looked)
    assert looked["images"] + sum(looked["refused"].values()) >= drawn
    flags = ("--max-side", 128, "--image-format", "webp", "--output-format", "webdataset")
    ran = vlv("data", "convert", folder, tmp_path / "out", *flags, "--json")
    assert last(ran.out)["images"] == looked["images"]
    split = vlv(
        "data", "split", tmp_path / "out", tmp_path / "parts", "--fraction", "validation=20%"
    )
    assert split.code == 0
