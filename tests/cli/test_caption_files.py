"""`vlv caption` among the work of others: captions by hand, odd names, other runs and programs."""

import io
import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tiny import CAPTIONS

from vlv.cli.app import main
from vlv.cli.common import add_to_ood_list
from vlv.data.sets import read_set
from vlv.inference.written import one_at_a_time

pytestmark = pytest.mark.usefixtures("use_tiny_model")


def test_captions_by_hand_stay_unless_asked_for(vlv: Callable, pictures: Path) -> None:
    job = ["caption", pictures, "--output_format", "txt"]
    (pictures / "blue.txt").write_text("by hand\n")
    assert vlv(*job).code == 0
    (pictures / "red.txt").write_text("edited\n")
    ran = vlv(*job, "--overwrite", "--prepend", "new")
    assert ran.code == 0
    assert ran.out == (
        "1 caption written, 2 left as they are (--overwrite-edited replaces them), 0 failed\n"
    )
    assert ran.err.startswith("vlv: kept: 2 captions were written or edited by hand")
    assert "blue.png" in ran.err and "red.png" in ran.err and "--overwrite-edited" in ran.err
    assert (pictures / "blue.txt").read_text() == "by hand\n"
    assert (pictures / "red.txt").read_text() == "edited\n"
    assert (pictures / "lime.txt").read_text() == f"new {CAPTIONS['lime']}\n"
    assert vlv(*job, "--overwrite_edited").out == "3 captions written, 0 failed\n"
    assert (pictures / "red.txt").read_text() == CAPTIONS["red"] + "\n"
    # What replaced them is the program's own again.
    assert vlv(*job, "--overwrite").out == "3 captions written, 0 failed\n"


@pytest.mark.parametrize("format", ["jsonl", "json"])
def test_entries_by_hand_stay_unless_asked_for(vlv: Callable, pictures: Path, format: str) -> None:
    file = pictures / "captions"
    job = ["caption", pictures, "--output-format", format, "--output", file]
    assert vlv(*job).code == 0
    file.write_text(file.read_text().replace(CAPTIONS["red"], "edited"))
    ran = vlv(*job, "--overwrite")
    assert ran.out.startswith("2 captions written, 1 left") and "red.png" in ran.err
    assert "edited" in file.read_text()
    assert vlv(*job, "--overwrite-edited").out.startswith("3 captions written, 0")
    assert "edited" not in file.read_text()


def test_a_caption_that_is_written_during_the_run_stays(
    vlv: Callable, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlv.inference import captioning

    caption = captioning.caption_images

    def slow(*args: object, **settings: object) -> object:
        for result in caption(*args, **settings):  # type: ignore[arg-type]
            (pictures / "red.txt").write_text("by hand")
            yield result

    monkeypatch.setattr(captioning, "caption_images", slow)
    ran = vlv("caption", pictures, "--output-format", "txt")
    assert (pictures / "red.txt").read_text() == "by hand"
    assert ran.out.startswith("2 captions written, 1 left") and "kept: 1 caption was" in ran.err


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_a_file_that_is_gone_and_an_odd_name_cost_a_set_no_other_image(
    vlv: Callable, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    from vlv.inference import captioning

    caption = captioning.caption_images

    def slow(*args: object, **settings: object) -> object:
        for result in caption(*args, **settings):  # type: ignore[arg-type]
            (pictures / "red.png").unlink(missing_ok=True)
            yield result

    (pictures / "blue.png").rename(pictures / os.fsdecode(b"caf\xe9.png"))
    monkeypatch.setattr(captioning, "caption_images", slow)
    ran = vlv("caption", pictures, "--output-format", format, "--output", tmp_path / "set")
    assert ran.code == 1 and ran.out == "2 captions written, 1 failed\n"
    assert "red.png" in ran.err
    read = {sample.meta["file_name"]: sample.caption for sample in read_set(tmp_path / "set")}
    assert read == {
        rf"{pictures}/caf\xe9.png": CAPTIONS["blue"],
        f"{pictures}/lime.png": CAPTIONS["lime"],
    }


def test_odd_captions_beside_images_cost_no_picture(vlv: Callable, pictures: Path) -> None:
    (pictures / "red.txt").write_bytes(b"it\x92s by hand")
    (pictures / "blue.txt").write_bytes(b"\xef\xbb\xbf\r\n")
    ran = vlv("caption", pictures, "--output-format", "txt")
    assert ran.code == 0 and ran.out.startswith("2 captions written, 1 left")
    assert (pictures / "blue.txt").read_text() == CAPTIONS["blue"] + "\n"
    lines = ['{"file_name": "red.png", "text": NaN}', '{"file_name": "blue.png", "text": ["x"]}']
    (pictures / "metadata.jsonl").write_text("\n".join([*lines, "{torn", "{}", ""]))
    ran = vlv("caption", pictures, "--output-format", "jsonl")
    assert ran.code == 0 and ran.out.startswith("2 captions written, 1 left")
    assert "2 lines of" in ran.err


def test_odd_names_are_one_line_each(vlv: Callable, pictures: Path) -> None:
    (pictures / "red.png").rename(pictures / "a\nb\tc\x1b[31m.png")
    (pictures / "blue.png").write_bytes(b"torn")
    (pictures / "blue.png").rename(pictures / "x\ny.png")
    ran = vlv("caption", pictures)
    assert ran.code == 1
    names = [line.split("\t")[0] for line in ran.out.splitlines()]
    assert names == [f"{pictures}/a\\nb\\tc\\x1b[31m.png", f"{pictures}/lime.png"]
    assert len(ran.err.splitlines()) == 1 and "x\\ny.png" in ran.err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_names_that_the_console_cannot_show(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    (pictures / "red.png").rename(pictures / "日本 é.png")
    (pictures / "missing é日.png").write_bytes(b"torn")
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with pytest.raises(SystemExit) as stop:
        main(["caption", str(pictures), "--append", "ü 日"])
    assert stop.value.code == 1
    # Where a console claims to be ASCII, UTF-8 is written.
    shown = out.buffer.getvalue().decode("utf-8" if encoding == "ascii" else encoding)  # type: ignore[attr-defined]
    lines = shown.splitlines()
    assert len(lines) == 3
    assert lines[2].endswith("ü 日" if encoding == "ascii" else "ü \\u65e5")
    assert b"unknown-format" in err.buffer.getvalue()  # type: ignore[attr-defined]


def test_a_set_that_another_run_writes_is_refused(
    vlv: Callable, pictures: Path, tmp_path: Path
) -> None:
    place = tmp_path / "set"
    job = ["caption", pictures, "--output-format", "webdataset", "--output", place]
    with one_at_a_time(place):
        ran = vlv(*job)
        assert ran.code == 2 and "another run is writing" in ran.err
    assert vlv(*job).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures", "set"]


def test_a_url_is_not_a_missing_file(vlv: Callable, pictures: Path) -> None:
    ran = vlv("caption", "https://example.org/a.png", pictures / "red.png", "--json")
    assert ran.code == 1
    records = [json.loads(line) for line in ran.out.splitlines()]
    assert records[0]["error"] == "url" and records[1]["text"] == CAPTIONS["red"]
    assert "https://example.org/a.png is a URL, which is not fetched" in ran.err


def test_linked_folders_are_captioned(vlv: Callable, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name, target in (("a", pictures), ("b", pictures), ("loop", folder)):
        (folder / name).symlink_to(target)
    for given in (["--recursive", folder], ["--glob", f"{folder}/**/*.png"]):
        ran = vlv("caption", *given)
        names = [line.split("\t")[0] for line in ran.out.splitlines()]
        assert names == [f"{folder}/a/{color}.png" for color in sorted(CAPTIONS)]
    (folder / "gone").symlink_to("nothing")
    ran = vlv("caption", "--recursive", folder, "--output-format", "txt")
    assert ran.code == 1 and ran.out == "3 captions written, 1 failed\n"
    assert "gone leads nowhere" in ran.err


def _list(file: Path, first: int) -> None:
    for number in range(first, first + 20):
        add_to_ood_list(file, [f"{number}.png"])


def test_two_runs_write_one_list_of_out_of_distribution_images(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=_list, args=(tmp_path / "list", 100 * i)) for i in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    names = (tmp_path / "list").read_text().splitlines()
    assert sorted(names) == sorted(f"{100 * i + n}.png" for i in range(3) for n in range(20))
