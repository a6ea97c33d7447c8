"""`vlv data convert`, `split` and `merge`: what comes out, and after kills."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlv.data.converting.record import Record
from vlv.data.items import items, origins, with_readable_captions
from vlv.data.samples import Sample
from vlv.data.sets import FORMATS, read_set, write_set
from vlv.errors import DatasetError

SIZES = [(320, 240), (150, 450), (32, 32), (256, 256), (500, 20)]


def encoded(picture: Image.Image, format: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, format)
    return file.getvalue()


def noise(number: int, size: tuple[int, int]) -> Image.Image:
    random = np.random.default_rng(number)
    small = random.integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size)


@cache
def samples() -> list[Sample]:
    """Images of several formats and sizes, with texts and meta data."""
    found = []
    for number, size in enumerate(SIZES * 4):
        format = ("JPEG", "PNG", "WEBP")[number % 3]
        extension = (".jpg", ".png", ".webp")[number % 3]
        texts = [f"Picture {number}, naïve 图.", f"Bild {number}."]
        meta = {"url": f"http://x.test/{number}", "texts": texts, "nested": {"list": [1, 2.5]}}
        found.append(
            Sample(f"{number:05d}", encoded(noise(number, size), format), extension, texts[0], meta)
        )
    return found


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of seven images."""
    folder = tmp_path_factory.mktemp("dataset")
    write_set(samples(), folder, format="webdataset", shard_size=7)
    return folder


def contents(folder: Path) -> dict[str, Sample]:
    found: dict[str, Sample] = {}
    for item in items(origins([folder])):
        assert isinstance(item.sample, Sample)
        found[item.sample.key] = item.sample
    return found


def files(folder: Path) -> dict[str, bytes]:
    """Without the record of the job."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".vlv-data" not in path.parts
    }


@pytest.mark.parametrize("before", FORMATS)
@pytest.mark.parametrize("after", FORMATS)
def test_any_layout_becomes_any_other_byte_by_byte(
    vlv: Callable, dataset: Path, tmp_path: Path, before: str, after: str
) -> None:
    steps = [dataset, tmp_path / "one", tmp_path / "two"]
    for source, target, layout in zip(steps, steps[1:], (before, after), strict=False):
        flags = ("--output-format", layout, "--shard-size", 6)
        assert vlv("data", "convert", source, target, *flags).code == 0
    found = contents(tmp_path / "two")
    assert len(found) == len(samples())
    for one in samples():
        other = found[one.key]
        assert (other.image, other.extension) == (one.image, one.extension)
        assert (other.caption, other.texts) == (one.caption, one.texts)
        assert {name: other.meta[name] for name in one.meta} == one.meta
    assert [one.caption for one in read_set(tmp_path / "two")] == [one.caption for one in samples()]


@pytest.mark.parametrize(
    ("flag", "value", "size"),
    [
        ("--resize", 48, lambda width, height: (48, 48)),
        ("--shorter-side", 64, lambda width, height: min(width, height, 64)),
        ("--max-side", 256, lambda width, height: min(max(width, height), 256)),
    ],
)
def test_sizes(
    vlv: Callable, dataset: Path, tmp_path: Path, flag: str, value: int, size: Callable
) -> None:
    assert vlv("data", "convert", dataset, tmp_path / "out", flag, value).code == 0
    found = contents(tmp_path / "out")
    reduced = 0
    for one in samples():
        other = found[one.key]
        old, new = one.picture().size, other.picture().size
        wanted = size(*old)
        side = {"--shorter-side": min(new), "--max-side": max(new), "--resize": new}[flag]
        assert side == wanted
        assert (other.image == one.image) == (old == new)
        assert other.extension == one.extension
        if flag != "--resize":
            assert new[0] / new[1] == pytest.approx(old[0] / old[1], rel=0.1)
        reduced += old != new
    assert reduced >= 4


def test_formats_and_quality(vlv: Callable, dataset: Path, tmp_path: Path) -> None:
    sizes = []
    for quality in (30, 95):
        target = tmp_path / str(quality)
        flags = ("--image-format", "jpeg", "--quality", quality)
        assert vlv("data", "convert", dataset, target, *flags).code == 0
        found = contents(target)
        assert {one.extension for one in found.values()} == {".jpg"}
        assert found["00000"].image == samples()[0].image  # a JPEG already
        sizes.append(len(found["00001"].image))
    assert sizes[0] < sizes[1]
    assert vlv("data", "convert", dataset, tmp_path / "x", "--resize", 9, "--max-side", 9).code == 2


def test_damaged_images_are_named_and_stop_no_other(vlv: Callable, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_set(samples(), source, format="folder")
    (source / "00003.jpg").write_bytes((source / "00003.jpg").read_bytes()[:500])
    (source / "00004.png").write_bytes(b"")
    (source / "drawing.svg").write_text("<svg/>")
    (source / "uncaptioned.png").write_bytes(encoded(noise(99, (30, 30)), "PNG"))
    reasons = {"truncated": 1, "empty": 1, "unknown-format": 1}
    for layout in FORMATS:
        target = tmp_path / layout
        flags = ("--output-format", layout, "--json")
        ran = vlv("data", "convert", source, target, *flags)
        assert ran.code == 1
        *lines, last = map(json.loads, ran.out.splitlines())
        assert last["refused"] == reasons
        assert last["images"] == len(contents(target)) == 19
        assert {one["file_name"] for one in lines} == {"00003.jpg", "00004.png", "drawing.svg"}
        assert contents(target)["uncaptioned"].caption is None
        again = vlv("data", "convert", source, target, *flags)
        assert (again.code, again.out) == (1, ran.out)


def test_captions_that_cannot_be_read_are_named(vlv: Callable, tmp_path: Path) -> None:
    """A damaged line loses no other."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(4):
        (source / f"{number}.png").write_bytes(encoded(noise(number, (30, 30)), "PNG"))
    (source / "metadata.csv").write_text("file_name,text\n0.png,zero\n,orphan\n2.png,two\n3.png,x")
    (source / "3.txt").write_bytes(b"\x8f\xe1\xfa\x81")  # Shift-JIS
    for command in ("convert", "inspect"):
        places = (source, tmp_path / "out") if command == "convert" else (source,)
        ran = vlv("data", command, *places)
        assert ran.code == 1
        assert "3.txt is not UTF-8 text" in ran.err
        assert f"line 3 of {source / 'metadata.csv'} has no file_name; mend it there" in ran.err
    found = {key: sample.caption for key, sample in contents(tmp_path / "out").items()}
    assert found == {"0": "zero", "1": None, "2": "two"}
    (source / "metadata.csv").unlink()
    (source / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "zero"}\n{"file_name"')
    ran = vlv("data", "inspect", source)
    assert ran.code == 1 and "line 2 of " in ran.err


MOJIBAKE = b"\x8f\xe1\xfa\x81"  # Shift-JIS
BAD_MEMBERS = {
    "number": ("json", b'{"caption": 5}', "the caption of number.json in the shard"),
    "list": ("json", b'{"caption": ["a", 5]}', "is no text but list"),
    "bytes": ("txt", MOJIBAKE, "bytes.txt in the shard"),
    "torn": ("json", b'{"caption": "a', "torn.json in the shard"),
}


def odd_captions(folder: Path, layout: str) -> tuple[Path, dict[str, str]]:
    """A dataset with two good samples and some whose captions are no text: key -> what is said."""
    folder.mkdir()
    picture = encoded(noise(0, (30, 30)), "PNG")
    if layout == "webdataset":
        parts = {"a": ("txt", b"Good."), "b": ("json", b'{"caption": null}')}
        parts |= {key: (kind, data) for key, (kind, data, _) in BAD_MEMBERS.items()}
        with tarfile.open(folder / "0.tar", "w") as archive:
            for key, (kind, data) in parts.items():
                for name, content in ((f"{key}.png", picture), (f"{key}.{kind}", data)):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        return folder, {key: said for key, (_, _, said) in BAD_MEMBERS.items()}
    valid, *content = pa.array([b"Good.", None, MOJIBAKE]).buffers()
    texts = pa.StringArray.from_buffers(3, *content, valid)
    tables = {"texts": texts, "numbers": pa.array([5]), "lists": pa.array([[1, 2]])}
    keys = {"texts": ["a", "b", "bytes"], "numbers": ["number"], "lists": ["list"]}
    for name, captions in tables.items():
        images = [{"bytes": picture, "path": f"{key}.png"} for key in keys[name]]
        table = pa.table({"image": pa.array(images), "caption": captions})
        pq.write_table(table, folder / f"{name}.parquet")
    return folder, {
        "number": "is no text but int",
        "list": "is no text but list",
        "bytes": "holds text that is not UTF-8",
    }


@pytest.mark.parametrize("layout", ["webdataset", "parquet"])
@pytest.mark.parametrize("after", FORMATS)
def test_captions_of_shards_that_are_no_text_are_named_and_counted(
    vlv: Callable, tmp_path: Path, layout: str, after: str
) -> None:
    """As those of folders are; the samples beside them go on."""
    source, bad = odd_captions(tmp_path / "source", layout)
    ran = vlv("data", "convert", source, tmp_path / "out", "--output-format", after, "--json")
    assert ran.code == 1
    *lines, last = map(json.loads, ran.out.splitlines())
    assert last["refused"] == {"bad-caption": len(bad)} and last["images"] == 2
    named = {Path(one["file_name"]).stem: one["message"] for one in lines}
    assert named.keys() == bad.keys()
    for key, said in bad.items():
        assert said in named[key] and str(source) in named[key]
        assert f"vlv: bad-caption: {named[key]}" in ran.err
    found = {key: one.caption for key, one in contents(tmp_path / "out").items()}
    assert found == {"a": "Good.", "b": None}


@pytest.mark.parametrize("layout", ["webdataset", "parquet"])
def test_what_looks_at_captions_names_those_that_are_no_text(
    vlv: Callable, tmp_path: Path, layout: str
) -> None:
    source, bad = odd_captions(tmp_path / "source", layout)
    ran = vlv("data", "inspect", source, "--json")
    assert ran.code == 1
    assert json.loads(ran.out.splitlines()[-1])["refused"] == {"bad-caption": len(bad)}
    assert all(said in ran.err for said in bad.values())
    ran = vlv("data", "curate", source, tmp_path / "out")
    assert ran.code == 1 and all(said in ran.err for said in bad.values())


def test_json_beside_a_picture_may_hold_several_captions_or_none(tmp_path: Path) -> None:
    """As a cell of a table may, for those who train and those who convert."""
    members = {"a": b'{"caption": ["one", "two"]}', "b": b'[{"box": [1, 2]}]'}
    for key, content in members.items():
        with tarfile.open(tmp_path / f"{key}.tar", "w") as archive:
            for name, data in (
                (f"{key}.png", encoded(noise(0, (30, 30)), "PNG")),
                (f"{key}.json", content),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    (sample,) = read_set(tmp_path / "a.tar")
    assert (sample.caption, sample.meta["texts"]) == ("one", ["one", "two"])
    found = [item.sample for item in with_readable_captions(items(origins([tmp_path])))]
    assert [(one.caption, one.meta.get("texts")) for one in found] == [  # type: ignore[union-attr]
        ("one", ["one", "two"]),
        (None, None),
    ]


def test_a_caption_in_metadata_that_is_no_text_is_named(vlv: Callable, tmp_path: Path) -> None:
    """Unless a caption file goes before it."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(3):
        (source / f"{number}.png").write_bytes(encoded(noise(number, (30, 30)), "PNG"))
    entries = [{"file_name": f"{number}.png", "text": number or "zero"} for number in range(3)]
    (source / "metadata.jsonl").write_text("\n".join(map(json.dumps, entries)))
    (source / "2.txt").write_text("two")
    ran = vlv("data", "convert", source, tmp_path / "out")
    assert ran.code == 1
    assert "bad-caption: the caption of 1.png in metadata.jsonl is no text but int" in ran.err
    found = {key: one.caption for key, one in contents(tmp_path / "out").items()}
    assert found == {"0": "zero", "2": "two"}


def test_blanks_in_captions_lose_no_text(vlv: Callable, tmp_path: Path) -> None:
    texts = ["A  red\tball. ", "Ein\u3000Ball."]
    sample = Sample("a", samples()[0].image, ".jpg", texts[0], {"texts": texts})
    source = tmp_path / "in"
    write_set([sample], source, format="parquet")
    for layout in FORMATS:
        flags = ("--output-format", layout)
        assert vlv("data", "convert", source, tmp_path / layout, *flags).code == 0
        assert contents(tmp_path / layout)["a"].texts == ["A red ball.", "Ein Ball."]
        source = tmp_path / layout


def test_another_job_is_refused(vlv: Callable, dataset: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert vlv("data", "convert", dataset, target).code == 0
    other = vlv("data", "convert", dataset, target, "--max-side", 100)
    assert other.code == 2
    assert "another change" in other.err
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "note").touch()
    assert "other files" in vlv("data", "convert", dataset, tmp_path / "taken").err
    assert vlv("data", "convert", tmp_path / "nothing", tmp_path / "new").code in (1, 2)


def test_shards_are_closed_by_bytes(vlv: Callable, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, size=(5, 400, 400, 3), dtype=np.uint8)
    images = [encoded(Image.fromarray(one), "PNG") for one in pixels]  # 480 kB each
    many = (Sample(str(at), image, ".png", "Noise.") for at, image in enumerate(images))
    write_set(many, tmp_path / "in", format="folder")
    flags = ("--output-format", "webdataset", "--shard-megabytes", 1)
    assert vlv("data", "convert", tmp_path / "in", tmp_path / "out", *flags).code == 0
    stats = sorted((tmp_path / "out").glob("*_stats.json"))
    assert [json.loads(path.read_text())["count"] for path in stats] == [2, 2, 1]


def test_a_split_is_stable_and_keeps_copies_together(vlv: Callable, tmp_path: Path) -> None:
    many = [
        Sample(
            f"{at:04d}", encoded(Image.new("RGB", (8, 8), (at, at // 2, 9)), "PNG"), ".png", "A."
        )
        for at in range(200)
    ]
    copies = [Sample(f"copy-{one.key}", one.image, ".png", "B.") for one in many[:60]]
    write_set(many, tmp_path / "small", format="webdataset", shard_size=90)
    write_set([*copies, *many], tmp_path / "large", format="webdataset", shard_size=70)
    flags = ("--fraction", "validation=20%", "--fraction", "test=0.1")
    found = {}
    for name in ("small", "large"):
        assert vlv("data", "split", tmp_path / name, tmp_path / f"{name}-out", *flags).code == 0
        parts = ("train", "validation", "test")
        folders = {part: tmp_path / f"{name}-out" / part for part in parts}
        found[name] = {key: part for part in parts for key in contents(folders[part])}
    assert len(found["small"]) == 200
    assert len(found["large"]) == 260
    assert found["small"].items() <= found["large"].items()
    assert all(found["large"][one.key] == found["large"][f"copy-{one.key}"] for one in many[:60])
    counts = [list(found["small"].values()).count(part) for part in ("validation", "test")]
    assert 20 <= counts[0] <= 60  # five standard deviations of chance are 28
    assert 5 <= counts[1] <= 40
    wrong = vlv("data", "split", tmp_path / "small", tmp_path / "x", "--fraction", "validation")
    assert wrong.code == 2
    assert "validation=5%" in wrong.err
    wrong = vlv("data", "split", tmp_path / "small", tmp_path / "x", *flags, "--fraction", "a=80%")
    assert wrong.code == 2 and "add up to 110%" in wrong.err


def test_merged_names_are_different_and_said(vlv: Callable, dataset: Path, tmp_path: Path) -> None:
    write_set(samples()[:3], tmp_path / "folder", format="folder")
    other = tmp_path / "table"
    write_set([Sample("a.b/x.y", samples()[0].image, ".jpg", "Dots.")], other, format="parquet")
    target = tmp_path / "out"
    ran = vlv("data", "merge", dataset, tmp_path / "folder", other, target)
    assert ran.code == 0
    assert "4 images have another name" in ran.err
    found = contents(target)
    assert len(found) == len(samples()) + 4
    assert found["00001-2"].image == found["00001"].image
    assert found["a.b/x_y"].caption == "Dots."


@pytest.mark.parametrize("layout", FORMATS)
def test_names_that_are_no_text_stop_nothing(vlv: Callable, tmp_path: Path, layout: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in (b"a", b"b\xff", b"c"):
        (source / os.fsdecode(name + b".png")).write_bytes(samples()[1].image)
        (source / os.fsdecode(name + b".txt")).write_text("A caption.")
    (source / "metadata.jsonl").write_text('{"file_name": "a.png", "author": "\\udcff"}')
    target = tmp_path / layout
    flags = ("--fraction", "validation=30%", "--by", "key", "--output-format", layout)
    assert vlv("data", "split", source, target, *flags).code == 0
    found = contents(target / "train") | contents(target / "validation")
    assert set(found) == {"a", "b\ufffd", "c"}
    assert {one.caption for one in found.values()} == {"A caption."}
    assert found["a"].meta["author"] == "\ufffd"


@pytest.mark.parametrize("layout", FORMATS)
def test_backslashes_in_names_are_read_again(vlv: Callable, tmp_path: Path, layout: str) -> None:
    """A name of Linux that is a path on Windows, which readers of shards refuse."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a\\b", "c"):
        (source / f"{name}.png").write_bytes(samples()[1].image)
        (source / f"{name}.txt").write_text(f"This is {name}.")
    ran = vlv("data", "convert", source, tmp_path / layout, "--output-format", layout)
    name = "a\\b" if layout == "folder" else "a_b"
    assert ran.code == 0 and ("1 image has another name" in ran.err) == (name == "a_b")
    assert contents(tmp_path / layout)[name].caption == "This is a\\b."
    inspected = vlv("data", "inspect", tmp_path / layout, "--json")
    assert inspected.code == 0, inspected.err
    assert json.loads(inspected.out)["images"] == 2


def test_names_of_any_length_get_another_extension(vlv: Callable, tmp_path: Path) -> None:
    """Prompts make names of 255 bytes, which leave no room for `.webp`, nor for a number."""
    source = tmp_path / "source"
    source.mkdir()
    names = [f"{letter}{'ü' * 125}" for letter in "ab"]
    for name in names:
        (source / f"{name}.png").write_bytes(samples()[1].image)
    ran = vlv("data", "convert", source, tmp_path / "out", "--image-format", "webp")
    assert ran.code == 0, ran.err
    assert "2 images have another name" in ran.err
    found = contents(tmp_path / "out")
    assert sorted(key[:50] for key in found) == [name[:50] for name in names]
    assert vlv("data", "merge", source, source, tmp_path / "twice").code == 0
    assert len(contents(tmp_path / "twice")) == 4


def test_an_image_that_a_format_cannot_hold_stops_no_other(vlv: Callable, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    Image.new("RGB", (20000, 8), "red").save(source / "wide.png")
    (source / "x.png").write_bytes(samples()[1].image)
    ran = vlv("data", "convert", source, tmp_path / "out", "--image-format", "webp")
    assert ran.code == 1 and "not-encoded" in ran.err and "wide.png" in ran.err
    assert [path.name for path in (tmp_path / "out").glob("*.webp")] == ["x.webp"]


def test_other_texts_and_names_replace_no_caption_and_no_name(
    vlv: Callable, tmp_path: Path
) -> None:
    """Of tables with `caption` and `text`, and of sets whose meta data name the old file."""
    meta = {"file_name": "old.png", "text": "Not the caption."}
    one = Sample("new", samples()[1].image, ".png", "The caption.", meta)
    write_set([one], tmp_path / "set", format="parquet")
    folder = ("--output-format", "folder")
    command = ("data", "convert", tmp_path / "set", tmp_path / "webp", *folder)
    assert vlv(*command, "--image-format", "webp").code == 0
    twice = (tmp_path / "set", tmp_path / "set", tmp_path / "twice")
    assert vlv("data", "merge", *twice, *folder).code == 0
    names = []
    for target in ("webp", "twice"):
        lines = (tmp_path / target / "metadata.jsonl").read_text().splitlines()
        for line in map(json.loads, lines):
            names.append(line["file_name"])
            assert (line["text"], line["source_text"]) == ("The caption.", "Not the caption.")
    assert names == ["new.webp", "new.png", "new-2.png"]


def test_captions_that_were_edited_are_not_taken_for_the_old_ones(
    vlv: Callable, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "out"
    write_set(samples()[:2], source, format="folder")
    assert vlv("data", "convert", source, target).code == 0
    assert vlv("data", "convert", source, target).code == 0
    (source / "00000.txt").write_text("Another caption of other length.\n")
    ran = vlv("data", "convert", source, target)
    assert ran.code == 2 and "SRC has changed since" in ran.err
    assert vlv("data", "convert", source, tmp_path / "new").code == 0
    assert contents(tmp_path / "new")["00000"].caption == "Another caption of other length."
    for _ in range(2):  # a result in SRC is no change of SRC
        assert vlv("data", "convert", source, source / "result").code == 0


@pytest.mark.parametrize("layout", ["webdataset", "folder"])
def test_a_source_is_the_same_under_all_of_its_names(
    vlv: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    source, other = tmp_path / "source", tmp_path / "other"
    write_set(samples()[:2], source, format=layout)
    other.mkdir()
    for place, name in ((tmp_path, "source"), (other, source), (tmp_path, source.as_uri())):
        for command in ("convert", "curate"):
            monkeypatch.chdir(place)
            ran = vlv("data", command, name, tmp_path / command)
            assert ran.code == 0, ran.err


def test_a_kill_before_the_last_record_loses_nothing(
    vlv: Callable, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("data", "convert", dataset, tmp_path / "out", "--output-format", "folder")

    def killed(record: Record) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Record, "finish", killed)
        assert vlv(*command).code != 0
    assert vlv(*command).code == 0
    assert len(contents(tmp_path / "out")) == len(samples())
    assert not list((tmp_path / "out" / ".vlv-data").rglob("*.jsonl"))


def test_a_thousand_images_of_one_name(tmp_path: Path) -> None:
    """Tables may give all of their images one name: each next number is found at once."""
    with Record(tmp_path / "out", {}) as record:
        asked: list[str] = []
        record._db.set_trace_callback(asked.append)
        keys = [record.key("", (0, at), "image", "image") for at in range(1000)]
    assert keys[:3] == ["image", "image-2", "image-3"] and len(set(keys)) == 1000
    assert len(asked) < 5000


def test_a_source_without_images_is_named(vlv: Callable, dataset: Path, tmp_path: Path) -> None:
    """A wrong name among several must not look like a merged dataset."""
    (tmp_path / "empty").mkdir()
    ran = vlv("data", "merge", dataset, tmp_path / "empty", tmp_path / "out")
    assert ran.code == 1 and "empty holds no image" in ran.err
    assert not (tmp_path / "out").exists()


def test_a_disk_that_is_full_for_the_record_is_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(DatasetError, match=r"job\.sqlite cannot be written .*full.*free some space"),
        Record(tmp_path / "out", {}) as record,
    ):
        record._db.execute("PRAGMA max_page_count = 12")
        for at in range(10_000):
            record.key("", (0, at), f"key-{at}", f"key-{at}")


@pytest.mark.slow
@pytest.mark.parametrize("layout", FORMATS)
def test_kills_change_nothing(tmp_path: Path, layout: str) -> None:
    """Ten SIGKILLs of a split with a change of sizes: the files of a run that was never stopped."""
    source = tmp_path / "source"
    many = (
        Sample(f"{at:04d}", encoded(noise(at, (64, 48)), "PNG"), ".png", f"Picture {at}.")
        for at in range(600)
    )
    write_set(many, source, format="webdataset", shard_size=100)
    flags = ["--fraction", "validation=30%", "--output-format", layout, "--shard-size", "20"]

    def command(target: str) -> list[str]:
        words = ["data", "split", str(source), str(tmp_path / target), *flags]
        return [sys.executable, "-c", "from vlv.cli import main; main()", *words]

    def shards() -> int:
        kinds = (".tar", ".parquet", ".jsonl")
        # `os.walk` passes over folders that lose their names meanwhile.
        found = (names for _, _, names in os.walk(tmp_path / "killed"))
        return sum(name.endswith(kinds) for names in found for name in names)

    subprocess.run(command("clean"), check=True, capture_output=True)
    for kill in range(10):
        before = shards()
        running = subprocess.Popen(
            command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while shards() == before and running.poll() is None:
            time.sleep(0.001)
        time.sleep(0.002 * kill)
        assert running.poll() is None, "it ended before it was killed"
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    subprocess.run(command("killed"), check=True, capture_output=True)
    assert files(tmp_path / "killed") == files(tmp_path / "clean")
