"""What `vlv caption` takes and writes beside files and folders: patterns, lists, sets, streams."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image
from tests.tiny import CAPTIONS, plain

from vlv.data.samples import Sample
from vlv.data.shards import ShardWriter

COLORS = sorted(CAPTIONS)

pytestmark = pytest.mark.usefixtures("use_tiny_model")


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Put bytes on standard input."""

    def put(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return put


def captions(text: str) -> list[str]:
    return [line.split("\t")[1] for line in text.splitlines()]


def write_set(vlv: Callable, pictures: Path, folder: Path, format: str) -> Path:
    assert vlv("caption", pictures, "--output_format", format, "--output", folder).code == 0
    return folder


def test_patterns(vlv: Callable, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pictures / "sub").mkdir()
    (pictures / "red.png").rename(pictures / "sub" / "red.png")
    (pictures / "red.txt").write_text("no image")
    monkeypatch.chdir(pictures)
    ran = vlv("caption", "--glob", "**/*", "--glob", "sub/*.png")
    assert [line.split("\t")[0] for line in ran.out.splitlines()] == [
        "blue.png",
        "lime.png",
        "sub/red.png",
    ]
    nothing = vlv("caption", "--glob", "*.jpg")
    assert nothing.code == 1 and "no image matches '*.jpg'" in nothing.err


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\0"])
def test_lists_of_names(vlv: Callable, pictures: Path, typed: Callable, separator: bytes) -> None:
    names = [str(pictures / f"{color}.png") for color in ("red", "blue", "missing")]
    data = separator.join(name.encode() for name in names) + separator
    (pictures / "list").write_bytes(data)
    from_file = vlv("caption", "--filelist", pictures / "list")
    typed(data)
    from_input = vlv("caption", "--filelist", "-")
    for ran in (from_file, from_input):
        assert ran.code == 1 and "unreadable" in ran.err and "missing.png" in ran.err
        assert captions(ran.out) == [CAPTIONS["red"], CAPTIONS["blue"]]
    assert vlv("caption", "--filelist", pictures / "none").code == 1
    assert vlv("caption").code == 2


def test_metadata_of_a_pattern_lies_beside_its_images(
    vlv: Callable, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "list").write_text("\n".join(map(str, pictures.glob("*.png"))))
    for given in (("--glob", pictures / "*.png"), ("--filelist", tmp_path / "list")):
        assert vlv("caption", *given, "--output_format", "jsonl").code == 0
        lines = (pictures / "metadata.jsonl").read_text().splitlines()
        assert {json.loads(line)["file_name"] for line in lines} == {f"{c}.png" for c in COLORS}
        (pictures / "metadata.jsonl").unlink()


def test_an_image_on_standard_input(vlv: Callable, pictures: Path, typed: Callable) -> None:
    data = (pictures / "lime.png").read_bytes()
    typed(data)
    assert vlv("caption", "-").out == CAPTIONS["lime"] + "\n"
    typed(data[:40])
    torn = vlv("caption", "-")
    assert torn.code == 1
    assert "vlv: truncated: standard input is truncated: its data end early\n" in torn.err
    typed(data)
    assert vlv("caption", "-", "--output_format", "txt").code == 2


def test_kohyas_json_is_added_to(vlv: Callable, pictures: Path) -> None:
    file = pictures / "meta.json"
    red, blue = str(pictures / "red.png"), str(pictures / "blue.png")
    before = {red: {"tags": "1cube"}, blue: {"caption": "mine"}, "other": {"caption": "kept"}}
    file.write_text(json.dumps(before))
    ran = vlv("caption", pictures, "--output_format", "json", "--output", file)
    assert ran.out == (
        "2 captions written, 1 left as they are (--overwrite replaces those that vlv wrote), "
        "0 failed\n"
    )
    after = json.loads(file.read_text())
    assert after[red] == {"tags": "1cube", "caption": CAPTIONS["red"]}
    assert after[blue] == {"caption": "mine"} and after["other"] == {"caption": "kept"}
    file.write_text("[]")
    assert vlv("caption", pictures, "--output_format", "json", "--output", file).code == 1
    assert file.read_text() == "[]"


def test_a_rerun_does_only_what_has_no_caption(vlv: Callable, pictures: Path) -> None:
    good = (pictures / "red.png").read_bytes()
    for format in ("txt", "jsonl", "json"):
        (pictures / "red.png").write_bytes(b"torn")
        arguments = ["caption", pictures, "--output_format", format]
        arguments += ["--output", pictures / "meta.json"] if format == "json" else []
        first = vlv(*arguments)
        assert first.code == 1 and "2 captions written, 1 failed" in first.out
        (pictures / "red.png").write_bytes(good)
        again = vlv(*arguments)
        assert again.code == 0 and again.out.startswith("1 caption written, 2 left")


def test_parquet_is_what_datasets_reads(vlv: Callable, pictures: Path, tmp_path: Path) -> None:
    (pictures / "red.png").rename(pictures / "red.v2.png")
    (pictures / "bad.png").write_text("no image")
    folder = tmp_path / "set"
    arguments = ["--output_format", "parquet", "--output", folder]
    ran = vlv("caption", pictures, *arguments)
    assert (ran.code, ran.out) == (1, "3 captions written, 1 failed\n")
    rows = pq.read_table(folder / "00000.parquet").to_pylist()
    assert [row["caption"] for row in rows] == [CAPTIONS[color] for color in COLORS]
    assert json.loads(rows[2]["meta"])["file_name"] == str(pictures / "red.v2.png")
    loaded = datasets.load_dataset("parquet", data_dir=str(folder), cache_dir=str(tmp_path))
    assert loaded["train"][0]["image"].getpixel((0, 0)) == (0, 0, 255)
    again = vlv("caption", pictures, *arguments)
    assert again.code == 2 and "exists already" in again.err
    assert vlv("caption", folder, *arguments, "--overwrite", "--prepend", "new").code == 0
    rows = pq.read_table(folder / "00000.parquet").to_pylist()
    assert rows[0]["caption"] == f"new {CAPTIONS['blue']}"


def test_shards_are_what_webdataset_reads(vlv: Callable, pictures: Path, tmp_path: Path) -> None:
    folder = write_set(vlv, pictures, tmp_path / "set", "webdataset")
    read = webdataset.WebDataset(str(folder / "00000.tar"), shardshuffle=False)
    assert [sample["txt"].decode() for sample in read] == [CAPTIONS[color] for color in COLORS]
    assert json.loads((folder / "00000_stats.json").read_text())["successes"] == 3
    occupied = ["--output_format", "webdataset", "--output", pictures, "--overwrite"]
    assert vlv("caption", pictures, *occupied).code == 2
    assert (pictures / "red.png").exists()


def test_a_set_is_replaced_but_nothing_beside_it(
    vlv: Callable, pictures: Path, tmp_path: Path
) -> None:
    folder = write_set(vlv, pictures, tmp_path / "set", "webdataset")
    again = ["caption", pictures, "--output_format", "webdataset", "--output", folder]
    assert vlv(*again, "--overwrite").code == 0
    (folder / "notes.md").write_text("mine")
    refused = vlv(*again, "--overwrite")
    assert refused.code == 2 and "holds something else than a webdataset set" in refused.err
    assert (folder / "notes.md").exists()


def test_sets_are_read(vlv: Callable, pictures: Path, tmp_path: Path) -> None:
    expected = [CAPTIONS[color] for color in COLORS]
    for format, file in (("parquet", "00000.parquet"), ("webdataset", "00000.tar")):
        folder = write_set(vlv, pictures, tmp_path / format, format)
        for given in (folder, folder / file):
            ran = vlv("caption", given)
            assert (ran.code, captions(ran.out)) == (0, expected)
            assert ran.out.startswith(str(folder / file))
        assert vlv("caption", folder, "--output_format", "txt").code == 2
        out = tmp_path / f"{format}.jsonl"
        arguments = ["caption", folder, "--output_format", "jsonl", "--output", out]
        assert vlv(*arguments).out == "3 captions written, 0 failed\n"
        assert vlv(*arguments).out.startswith("0 captions written, 3 left")


def test_a_damaged_shard_costs_itself(vlv: Callable, pictures: Path, tmp_path: Path) -> None:
    shards = write_set(vlv, pictures, tmp_path / "set", "webdataset")
    (shards / "00001.tar").write_bytes((shards / "00000.tar").read_bytes())
    (shards / "00000.tar").write_bytes(b"no archive")
    (shards / "00000_stats.json").unlink()
    ran = vlv("caption", pictures / "red.png", shards)
    assert ran.code == 1 and str(shards / "00000.tar") in ran.err
    assert captions(ran.out) == [CAPTIONS["red"], *(CAPTIONS[color] for color in COLORS)]


def test_an_image_in_a_shard_that_does_not_decode_is_named(
    vlv: Callable, pictures: Path, tmp_path: Path
) -> None:
    data = (pictures / "red.png").read_bytes()
    samples = [Sample("good", data, ".png"), Sample("torn", data[:60], ".png")]
    with ShardWriter(tmp_path / "set.tar", uncaptioned=True) as shard:
        for one in samples:
            shard.add(one)
    ran = vlv("caption", tmp_path / "set.tar")
    assert (ran.code, captions(ran.out)) == (1, [CAPTIONS["red"]])
    assert f"vlv: truncated: {tmp_path}/set.tar/torn.png is truncated: its data" in ran.err


def test_forced_starts_and_banned_words(vlv: Callable, pictures: Path) -> None:
    forced = vlv("caption", pictures, "--forced_start", "The light", "--max-new-tokens", 20)
    assert all(text.startswith("The light") for text in captions(forced.out))
    banned = vlv("caption", pictures, "--banned_words", "red, light", "--max-new-tokens", 30)
    assert "red " not in banned.out.replace("red.png", "") and "light" not in banned.out


def test_pictures_unlike_those_of_training_are_named_in_one_line(
    vlv: Callable, pictures: Path, tmp_path: Path
) -> None:
    scenes = tmp_path / "scenes"
    assert vlv("world", "render", "--count", 2, "--out", scenes).code == 0
    greedy = ["--model", "vlv-mini", "--num-beams", 1, "--max-new-tokens", 12]
    known = vlv("caption", scenes, *greedy, "--json")
    assert known.err == ""
    assert [json.loads(line)["in_distribution"] for line in known.out.splitlines()] == [True, True]
    ran = vlv("caption", scenes, pictures, *greedy)
    assert ran.code == 0 and len(ran.out.splitlines()) == 5
    (line,) = ran.err.splitlines()
    assert "3 pictures are unlike those that this model was trained on" in line
    assert "blue.png" in line and "and 1 more" in line and "docs/full_size.md" in line
    one = vlv("caption", pictures / "red.png", *greedy).err
    assert "1 picture is unlike" in one and "red.png" in one


def test_pictures_of_another_kind_are_listed_and_skipped(
    vlv: Callable, pictures: Path, tmp_path: Path
) -> None:
    scenes, listed = tmp_path / "scenes", tmp_path / "unknown.txt"
    vlv("world", "render", "--out", scenes, "--count", 2)
    for number, scene in enumerate(sorted(scenes.glob("*.png"))):
        shutil.copy(scene, pictures / f"scene{number}.png")
    colors = [str(pictures / f"{color}.png") for color in COLORS]
    (pictures / "red.txt").write_text("Mine.")
    options = ["--model", "vlv-mini", "--num-beams", 1, "--max-new-tokens", 12]
    options += ["--output-format", "txt", "--skip-ood", "--ood-list", listed]
    listed.write_text("before.png\n")
    for _ in range(2):  # a second run meets them again
        ran = vlv("caption", pictures, *options)
        assert ran.code == 0 and ", 2 out-of-distribution skipped, 0 failed" in ran.out
        assert "2 pictures are unlike" in ran.err and "they were not captioned" in ran.err
        assert listed.read_text().splitlines() == ["before.png", colors[0], colors[1]]
    texts = {path.stem: path.read_text() for path in pictures.glob("*.txt")}
    assert set(texts) == {"red", "scene0", "scene1"} and texts["red"] == "Mine."
    ran = vlv("caption", pictures, *options, "--overwrite", "--overwrite-edited", "--json")
    skipped = [json.loads(line) for line in ran.out.splitlines()]
    assert [one["file_name"] for one in skipped if one["text"] is None] == colors
    assert listed.read_text().splitlines() == ["before.png", *colors]
    assert (pictures / "red.txt").read_text() == "Mine."
    again = vlv("caption", "--filelist", listed, "--model", "vlv-mini", "--json")
    assert again.code == 1 and "3 pictures are unlike" in again.err  # before.png is missing


def test_what_cannot_be_listed_is_reported_before_any_work(vlv: Callable, pictures: Path) -> None:
    ran = vlv("caption", pictures, "--skip-ood")
    assert ran.code == 2 and "vlv ood-detector" in ran.err
    ran = vlv("caption", pictures, "--ood-list", pictures)
    assert ran.code == 2 and "names no file" in ran.err


def test_a_model_folder_records_what_it_knows(
    vlv: Callable, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlv.pipeline import VLV

    model, shades = tmp_path / "model", tmp_path / "shades"
    VLV.from_pretrained(tiny_model_dir).save_pretrained(model)
    shades.mkdir()
    for number in range(40):
        plain(f"rgb({20 + number}, {30 + 2 * number}, 60)").save(shades / f"{number:02d}.png")
    ran = vlv("ood_detector", shades, "--model", model)
    assert (ran.code, ran.err) == (0, "") and "from 40 images" in ran.out
    asked = vlv("caption", shades / "07.png", "--model", model, "--json", "--max-new-tokens", 5)
    assert json.loads(asked.out)["in_distribution"] is True
    few = vlv("ood_detector", shades / "07.png", "--model", model)
    assert few.code == 2 and "1 pictures are too few" in few.err


def test_images_are_read_whatever_their_format_is_called(vlv: Callable, pictures: Path) -> None:
    image = Image.open(pictures / "red.png")
    for name in ("a.jpe", "b.jfif", "c.jif", "d.pjpeg", "e.mpo"):
        image.save(pictures / name, "MPO" if name == "e.mpo" else "JPEG", quality=100)
    image.save(pictures / "f.apng", "PNG", save_all=True, append_images=[image.rotate(90)])
    for name in ("g.bmp", "h.BMP", "i.tif", "j.tiff", "k.avif"):
        image.save(pictures / name)
    image.save(pictures / "l.dib", "BMP")
    ran = vlv("caption", pictures)
    assert (ran.code, ran.err) == (0, "")
    assert len(ran.out.splitlines()) == len(COLORS) + 12
    assert set(captions(ran.out)) == set(CAPTIONS.values())


@pytest.mark.parametrize("extension", ["svg", "psd", "jxl", "jp2", "cr2", "nef", "dng"])
def test_images_of_other_formats_are_not_passed_over_without_a_word(
    vlv: Callable, pictures: Path, extension: str
) -> None:
    (pictures / f"old.{extension}").write_bytes(b"of some format")
    ran = vlv("caption", pictures)
    assert (ran.code, len(ran.out.splitlines())) == (1, len(COLORS))
    assert "unknown-format" in ran.err and f"old.{extension}" in ran.err


def test_photographs_of_large_sensors(vlv: Callable, tmp_path: Path) -> None:
    Image.new("1", (8192, 6144)).save(tmp_path / "50.png")
    assert vlv("caption", tmp_path).code == 0
    refused = vlv("caption", tmp_path, "--max-megapixels", 50)
    assert refused.code == 1
    assert "too-many-pixels" in refused.err and "more than 50 megapixels" in refused.err


def test_the_cap_of_pixels_is_an_option(
    vlv: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (1200, 1000)).save(tmp_path / "large.png")
    for command in (
        ("encode", tmp_path, "--out", tmp_path / "z.safetensors", "--overwrite"),
        ("reconstruct", tmp_path / "large.png", "--num-inference-steps", 1),
    ):
        refused = vlv(*command, "--max-megapixels", 1.1)
        assert refused.code == 1 and "too-many-pixels" in refused.err
        assert vlv(*command, "--max-megapixels", 1.2).code == 0
    bulk = vlv("bulk", tmp_path, tmp_path / "job", "--max-megapixels", 1.1)
    assert bulk.code == 1 and "(too-many-pixels 1)" in bulk.out


def test_a_caption_file_of_blanks_is_none(vlv: Callable, pictures: Path) -> None:
    (pictures / "red.txt").write_text("\n \n")
    assert vlv("caption", pictures, "--output-format", "txt").out.startswith("3 captions written")
    assert (pictures / "red.txt").read_text() == CAPTIONS["red"] + "\n"


def test_a_text_that_goes_on_with_a_comma_has_no_space_before_it(
    vlv: Callable, pictures: Path
) -> None:
    image = pictures / "red.png"
    ran = vlv("caption", image, "--prepend", "sks", "--append", ", 4k")
    # Nor does a full stop stand before it.
    assert ran.out == f"sks {CAPTIONS['red'].removesuffix('.')}, 4k\n"
    assert vlv("caption", image, "--append", "by sks").out == f"{CAPTIONS['red']} by sks\n"


def test_files_are_written_where_standard_output_is_closed(
    vlv: Callable, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    ran = vlv("caption", pictures, "--output-format", "txt", "--json")
    assert (ran.code, len(list(pictures.glob("*.txt")))) == (0, 3), ran.err
    ran = vlv("caption", pictures, "--output-format", "txt", "--dry-run")
    assert (ran.code, "standard output is closed" in ran.err) == (2, True)
    monkeypatch.setattr(sys, "stdin", None)
    (pictures / "list").write_text("-")
    ran = vlv("caption", "--filelist", pictures / "list", "--output-format", "parquet")
    assert (ran.code, "standard input is closed" in ran.err) == (2, True)
