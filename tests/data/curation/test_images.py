"""`vlv data curate` on images: what was planted is found, and nothing else is dropped."""

import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.data.curation.planted import digests, encoded, jpeg, planted, planted_set, scenes

from vlv.data.curation import running
from vlv.data.items import items, origins
from vlv.data.recaptioning import recaptioned
from vlv.data.samples import Sample
from vlv.data.sets import read_set, write_set
from vlv.data.world_sets import world_samples


def dropped(folder: Path) -> dict[str, str]:
    """Key -> reason, from the record of a run."""
    lines = map(json.loads, (folder / "dropped.jsonl").read_text().splitlines())
    return {one["key"].rpartition(".")[0]: one["reason"] for one in lines}


@pytest.mark.parametrize(
    ("count", "copies"), [(150, 21), pytest.param(5000, 420, marks=pytest.mark.slow)]
)
def test_what_was_planted_is_found_and_nothing_else_is_dropped(
    vlv: Callable, tmp_path: Path, count: int, copies: int
) -> None:
    size = max(50, count // 10)
    reasons = planted_set(tmp_path / "set", count, copies, format="webdataset", shard_size=size)
    ran = vlv("data", "curate", tmp_path / "set", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    assert dropped(tmp_path / "out") == reasons
    found = json.loads(ran.out)
    assert found["dropped"] == Counter(reasons.values())
    assert found["kept"] == count and found["samples"] == count + len(reasons)
    kept = list(read_set(tmp_path / "out"))
    originals = scenes(count)
    assert [(one.key, one.image, one.caption) for one in kept] == [
        (one.key, one.image, one.caption) for one in originals
    ]
    assert all(a.meta.items() <= b.meta.items() for a, b in zip(originals, kept, strict=True))


@pytest.mark.parametrize("format", ["folder", pytest.param("parquet", marks=pytest.mark.slow)])
def test_every_layout_is_curated_by_any_number_of_processes(
    vlv: Callable, tmp_path: Path, format: str
) -> None:
    reasons = planted_set(tmp_path / "set", 40, 7, format=format, shard_size=20)
    for name, workers in (("one", 1), ("two", 2)):
        command = ("data", "curate", tmp_path / "set", tmp_path / name, "--shard-size", 20)
        ran = vlv(*command, "--output-format", "parquet", "--workers", workers)
        assert ran.code == 0, ran.err
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    # A folder is read in the order of its names, so a copy may come before its original.
    assert Counter(dropped(tmp_path / "one").values()) == Counter(reasons.values())
    assert len(list(read_set(tmp_path / "one"))) == 40


def test_a_copy_names_its_original_in_another_shard(vlv: Callable, tmp_path: Path) -> None:
    samples = list(world_samples(6))
    samples.append(Sample("copy", jpeg(samples[1].picture()), ".jpg", "A copy."))
    write_set(samples, tmp_path / "set", format="webdataset", shard_size=3)
    assert vlv("data", "curate", tmp_path / "set", tmp_path / "out").code == 0
    (line,) = map(json.loads, (tmp_path / "out" / "dropped.jsonl").read_text().splitlines())
    assert line["reason"] == "near-duplicate" and line["shard"] == "00002.tar"
    assert line["original"] == {"key": "000000001.png", "shard": "00000.tar", "row": 1}
    # The third shard held nothing else, so it is not there.
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == [
        *("00000.tar", "00001.tar")
    ]


def test_the_same_shapes_in_other_colours_are_no_duplicates(vlv: Callable, tmp_path: Path) -> None:
    """Every hash of the brightness takes them for the same picture."""
    picture = next(iter(world_samples(1))).picture()
    red, green, blue = picture.split()
    # The same brightness almost everywhere: the weights of red and blue are exchanged with a gain.
    other = Image.merge("RGB", (blue, green, red))
    samples = [
        Sample("a", encoded(picture, "PNG"), ".png", "One."),
        Sample("b", encoded(other, "PNG"), ".png", "Another."),
    ]
    write_set(samples, tmp_path / "set", format="webdataset")
    command = ("data", "curate", tmp_path / "set", tmp_path / "out", "--max-distance", 32)
    assert vlv(*command).code == 0
    assert dropped(tmp_path / "out") == {}


def test_switches_keep_duplicates_and_plain_images(vlv: Callable, tmp_path: Path) -> None:
    reasons = planted_set(tmp_path / "set", 20, 7, format="webdataset")
    broken = {"truncated", "unknown-format", "empty", "too-many-pixels"}
    for options, kept in (
        (("--duplicates", "keep", "--keep-plain"), broken),
        (("--duplicates", "exact"), {*broken, "duplicate", "flat", "text-only"}),
    ):
        out = tmp_path / options[1]
        assert vlv("data", "curate", tmp_path / "set", out, *options).code == 0
        assert dropped(out) == {key: one for key, one in reasons.items() if one in kept}


def test_conditions_use_the_measured_size_and_the_json_of_each_sample(
    vlv: Callable, tmp_path: Path
) -> None:
    """As img2dataset leaves it: metadata in the .json, whose size is that of the link."""
    metas = [
        {"pwatermark": 0.1, "width": 9999, "height": 9999, "AESTHETIC_SCORE": 6.0},
        {"pwatermark": 0.7, "width": 9999, "height": 9999, "AESTHETIC_SCORE": 6.0},
        {"pwatermark": None, "width": 9999, "height": 9999, "AESTHETIC_SCORE": 6.0},
        {"pwatermark": 0.1, "width": 1, "height": 1, "AESTHETIC_SCORE": "7.5"},
        {"pwatermark": 0.1, "width": 1, "height": 1, "AESTHETIC_SCORE": 3.0},
        {"pwatermark": 0.1, "url": "https://cdn.bad.example/x.jpg", "AESTHETIC_SCORE": 7},
        {"pwatermark": 0.1, "AESTHETIC_SCORE": 7},
    ]
    samples = []
    for number, (meta, one) in enumerate(zip(metas, world_samples(len(metas)), strict=True)):
        large = one.picture().resize((600, 600 if number != 6 else 500))
        samples.append(
            replace(one, key=f"{number}", image=jpeg(large), extension=".jpg", meta=meta)
        )
    write_set(samples, tmp_path / "set", format="webdataset")
    stats = {"count": 12, "successes": 7, "failed_to_download": 4, "failed_to_resize": 1}
    (tmp_path / "set" / "00000_stats.json").write_text(json.dumps(stats))
    (tmp_path / "block.txt").write_text("domain:bad.example\n")
    ran = vlv(
        *("data", "curate", tmp_path / "set", tmp_path / "out", "--paper"),
        *("--where", "aesthetic >= 4.5", "--blocklist", tmp_path / "block.txt"),
    )
    assert ran.code == 0, ran.err
    assert dropped(tmp_path / "out") == {
        **{"1": "watermark", "2": "no-watermark", "4": "where"},
        **{"5": "blocklist", "6": "too-small"},
    }
    assert "Downloaded before: 7 of 12 links" in ran.out
    assert "4 were not downloaded" in (tmp_path / "out" / "curation.html").read_text()
    ran = vlv("data", "curate", tmp_path / "set", tmp_path / "no", "--where", "nothing > 1")
    assert ran.code == 2 and "needs the column nothing" in ran.err


def test_names_with_dots_and_names_that_occur_twice(vlv: Callable, tmp_path: Path) -> None:
    one, two, three = world_samples(3)
    samples = [replace(one, key="a.b"), replace(two, key="a_b"), replace(three, key="a.b")]
    write_set(samples, tmp_path / "set", format="parquet")
    assert vlv("data", "curate", tmp_path / "set", tmp_path / "out").code == 0
    kept = list(read_set(tmp_path / "out"))
    assert [sample.image for sample in kept] == [sample.image for sample in samples]
    assert len({sample.key for sample in kept}) == 3
    assert [sample.meta.get("source_key") for sample in kept] == ["a.b", "a_b", "a.b"]


def test_numbered_and_hidden_names_lose_no_image(vlv: Callable, tmp_path: Path) -> None:
    """`a-2` is what a second `a` would be called; readers of shards skip hidden names."""
    one, two, three, four = world_samples(4)
    keys = ["a-2", "a", "a", ".b"]
    samples = [
        replace(sample, key=key) for sample, key in zip((one, two, three, four), keys, strict=True)
    ]
    write_set(samples, tmp_path / "set", format="parquet")
    assert vlv("data", "curate", tmp_path / "set", tmp_path / "out").code == 0
    kept = [item.sample for item in items(origins([tmp_path / "out"]))]
    assert [one.key for one in kept if isinstance(one, Sample)] == ["a-2", "a", "a-3", "_b"]
    assert [one.image for one in read_set(tmp_path / "out")] == [one.image for one in samples]


def test_names_that_are_no_text_stop_nothing(vlv: Callable, tmp_path: Path) -> None:
    source = tmp_path / os.fsdecode(b"set\xff")
    source.mkdir()
    one, two, three = world_samples(3)
    for name, sample in ((b"a", one), (b"b\xff", two), (b"c\xff", two), (b"d", three)):
        (source / os.fsdecode(name + b".png")).write_bytes(sample.image)
    ran = vlv("data", "curate", source, tmp_path / "out")
    assert ran.code == 0, ran.err
    assert [one.key for one in read_set(tmp_path / "out")] == ["a", "b\ufffd", "d"]
    assert dropped(tmp_path / "out") == {"c\ufffd": "duplicate"}
    assert vlv("data", "curate", source, tmp_path / "out").code == 0


def test_an_example_may_be_as_large_as_images_may(vlv: Callable, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    Image.new("1", (8000, 6400)).save(tmp_path / "set" / "large.png")
    ran = vlv("data", "curate", tmp_path / "set", tmp_path / "out", "--max-megapixels", 60)
    assert ran.code == 0, ran.err
    assert dropped(tmp_path / "out") == {"large": "flat"}
    assert "data:image/jpeg;base64," in (tmp_path / "out" / "curation.html").read_text()


def test_images_without_captions_stay(vlv: Callable, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for one in world_samples(3):
        (tmp_path / "set" / one.file_name).write_bytes(one.image)
    for format in ("webdataset", "parquet"):
        out = tmp_path / format
        ran = vlv("data", "curate", tmp_path / "set", out, "--output-format", format)
        assert ran.code == 0, ran.err
        assert [one.caption for one in read_set(out)] == [None] * 3


def test_a_damaged_shard_is_named_and_loses_only_what_is_damaged(
    vlv: Callable, tmp_path: Path
) -> None:
    write_set(world_samples(9), tmp_path / "set", format="webdataset", shard_size=3)
    shard = tmp_path / "set" / "00001.tar"
    data = bytearray(shard.read_bytes())
    with tarfile.open(shard) as archive:
        member = archive.getmembers()[3]  # the image of the second sample
    data[member.offset : member.offset + 512] = os.urandom(512)
    shard.write_bytes(data)
    ran = vlv("data", "curate", tmp_path / "set", tmp_path / "out")
    assert ran.code == 1 and "00001.tar is damaged" in ran.err
    kept = {
        one.key for path in sorted((tmp_path / "out").glob("*.tar")) for one in recaptioned(path)
    }
    assert kept == {f"{at:09d}" for at in range(9) if at != 4}


def test_a_source_that_changes_meanwhile_is_noticed(
    vlv: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    write_set(world_samples(4), folder, format="folder")

    def change(*places: Path, **options: Any) -> None:
        (folder / "000000002.png").write_bytes(next(iter(world_samples(1, seed=5))).image)
        find(*places, **options)

    find = running.find_duplicates
    monkeypatch.setattr(running, "find_duplicates", change)
    ran = vlv("data", "curate", folder, tmp_path / "out")
    assert ran.code == 1 and "changed while it was curated" in ran.err
    assert not list((tmp_path / "out").glob("*.tar"))


def test_the_same_command_again_repeats_the_result(vlv: Callable, tmp_path: Path) -> None:
    planted_set(tmp_path / "set", 20, 4, format="folder")
    command = ("data", "curate", tmp_path / "set", tmp_path / "out", "--json")
    first = vlv(*command)
    before = digests(tmp_path / "out")
    again = vlv(*command)
    assert (again.code, again.out) == (first.code, first.out)
    assert digests(tmp_path / "out") == before
    other = vlv(*command, "--keep-plain")
    assert other.code == 2 and "another keep_plain" in other.err
    (tmp_path / "set" / "000000000.txt").write_text("Another caption, by hand.\n")
    edited = vlv(*command)
    assert edited.code == 2 and "another list of shards" in edited.err


def test_folders_that_hold_something_else_are_refused(vlv: Callable, tmp_path: Path) -> None:
    write_set(world_samples(2), tmp_path / "set", format="webdataset")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    ran = vlv("data", "curate", tmp_path / "set", tmp_path / "out")
    assert ran.code == 2 and "holds other files already" in ran.err
    assert vlv("data", "curate", tmp_path / "nowhere", tmp_path / "o").code == 1
    ran = vlv("data", "curate", tmp_path / "out", tmp_path / "o")
    assert ran.code == 1 and "there is no image in" in ran.err


def test_the_page_shows_examples_and_escapes_names(vlv: Callable, tmp_path: Path) -> None:
    samples, _ = planted(20, 7)
    bad = replace(samples[0], key="<img src=x onerror=alert(1)>", caption="<script>")
    write_set([*samples, bad], tmp_path / "set", format="parquet")
    assert vlv("data", "curate", tmp_path / "set", tmp_path / "out").code == 0
    page = (tmp_path / "out" / "curation.html").read_text()
    assert "<img src=x" not in page and "&lt;img src=x" in page and "<script" not in page
    assert page.count("data:image/jpeg;base64,") >= 10  # pairs of duplicates, and plain images
    assert "http" not in page  # one file, no network


def test_files_in_formats_that_are_not_read_are_dropped_by_name(
    vlv: Callable, tmp_path: Path
) -> None:
    (tmp_path / "set").mkdir()
    (one,) = world_samples(1)
    (tmp_path / "set" / "a.png").write_bytes(one.image)
    (tmp_path / "set" / "b.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "set" / "c.svg").write_bytes(one.image)  # is a PNG after all
    (tmp_path / "set" / "d.png").write_text("no image")
    ran = vlv("data", "curate", tmp_path / "set", tmp_path / "out", "--duplicates", "keep")
    assert ran.code == 0, ran.err
    assert dropped(tmp_path / "out") == dict.fromkeys(("b", "d"), "unknown-format")
    assert "2 unknown-format" in ran.out
    assert len(list(read_set(tmp_path / "out"))) == 2
    url = f"file://{tmp_path / 'set'}"
    assert vlv("data", "curate", url, tmp_path / "again", "--duplicates", "keep").code == 0
    assert digests(tmp_path / "again")["00000.tar"] == digests(tmp_path / "out")["00000.tar"]
