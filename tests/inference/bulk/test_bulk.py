"""`vlv bulk`: every image is counted once, whatever is killed, full or broken on the way."""

import json
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from datasets import Dataset, Features, Image, load_dataset
from PIL import Image as PILImage
from tests import launcher
from tests.data.test_sets import damage_header
from tests.inference.bulk.jobs import (
    COUNT,
    FAST,
    MARKS,
    Deadly,
    captions,
    command,
    digest,
    first_worker,
    numbers,
    workers,
)
from tests.shared import until
from webdataset import WebDataset

from vlv.data.sets import read_set, write_set
from vlv.data.world_sets import render_world, world_samples


def test_all_images_are_captioned_in_order_once(
    vlv: Callable, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "broken.png").write_bytes(b"no image")
    (pictures / "empty.jpg").touch()
    ran = vlv("bulk", pictures, tmp_path / "one", *FAST, "--json")
    assert ran.code == 1
    reported = numbers(ran.out)
    assert reported["images"] == COUNT + 2 == reported["images_in_this_run"]
    assert reported["ok"] == COUNT
    assert reported["failed"] == {"unknown-format": 1, "empty": 1}
    failed = (tmp_path / "one" / ".vlv-bulk" / "failed.jsonl").read_text().splitlines()
    assert [json.loads(line)["file_name"] for line in failed] == ["broken.png", "empty.jpg"]
    made = captions(tmp_path / "one")
    assert len(made) == COUNT
    assert all(made.values())

    # The same by `vlv caption`, and with two workers.
    ran = vlv("caption", pictures, "-r", "--json", *FAST[:-2])
    alone = [json.loads(line) for line in ran.out.splitlines()]
    alone = {
        os.path.relpath(one["file_name"], pictures): one["text"] for one in alone if "text" in one
    }
    assert alone == made
    vlv("bulk", pictures, tmp_path / "two", *FAST, "--workers", "2")
    assert digest(tmp_path / "two") == digest(tmp_path / "one")

    # Again: nothing is left to do, and other settings are another job.
    again = vlv("bulk", pictures, tmp_path / "one", *FAST, "--json")
    assert numbers(again.out)["images_in_this_run"] == 0
    other = vlv("bulk", pictures, tmp_path / "one", *FAST, "--prepend", "a ")
    assert other.code == 2
    assert "prepend" in other.err

    # What failed is mended and tried again; the rest is not.
    PILImage.new("RGB", (64, 64)).save(pictures / "broken.png")
    mended = vlv("bulk", pictures, tmp_path / "one", *FAST, "--retry-failed", "--json")
    reported = numbers(mended.out)
    # What is still broken is tried again too.
    assert (reported["ok"], reported["images_in_this_run"]) == (COUNT + 1, 2)
    assert {name: text for name, text in captions(tmp_path / "one").items() if name in made} == made


def test_a_caption_file_that_was_corrected_stays(
    vlv: Callable, pictures: Path, tmp_path: Path
) -> None:
    job = ["bulk", pictures, tmp_path / "out", *FAST, "--output-format", "txt"]
    (pictures / "broken.png").write_bytes(b"no image")
    assert vlv(*job).code == 1
    corrected, other, *_ = sorted((tmp_path / "out").glob("*.txt"))
    corrected.write_text("By hand.\n")
    text = other.read_text()
    PILImage.new("RGB", (64, 64)).save(pictures / "broken.png")
    assert vlv(*job, "--retry-failed").code == 0
    assert (tmp_path / "out" / "broken.txt").read_text()
    assert (corrected.read_text(), other.read_text()) == ("By hand.\n", text)


@pytest.mark.parametrize("unreadable", ["aa", "zz"])
def test_a_folder_that_cannot_be_read_is_reported(
    vlv: Callable,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unreadable: str,
) -> None:
    """Whoever runs the tests may be allowed to read every folder, so the system is stood in for."""
    for name in ("aa", "zz"):
        (pictures / name).mkdir()
    scandir = os.scandir

    def refusing(path: str | int) -> object:
        if isinstance(path, str) and os.path.basename(path) == unreadable:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    ran = vlv("bulk", pictures, tmp_path / "out", *FAST, "--json")
    assert (ran.code, numbers(ran.out)["failed"]) == (1, {"unreadable": 1})


@pytest.mark.parametrize("kind", ["webdataset", "parquet", "datasets"])
def test_sources_of_every_kind(vlv: Callable, pictures: Path, tmp_path: Path, kind: str) -> None:
    samples = list(world_samples(COUNT, seed=3))
    source = tmp_path / "source"
    if kind == "datasets":
        rows = {"image": [{"bytes": one.image, "path": None} for one in samples]}
        Dataset.from_dict(rows, features=Features({"image": Image()})).save_to_disk(str(source))
    else:
        write_set(samples, source, format=kind, shard_size=5)
    ran = vlv("bulk", source, tmp_path / "out", *FAST, "--json")
    assert (ran.code, numbers(ran.out)["ok"]) == (0, COUNT), ran.err
    vlv("bulk", pictures, tmp_path / "folder", *FAST)
    made = captions(tmp_path / "out").values()
    assert sorted(made) == sorted(captions(tmp_path / "folder").values())


def test_a_damaged_shard_loses_what_is_damaged(vlv: Callable, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_set(world_samples(5, seed=3), source, format="webdataset")
    (path,) = source.glob("*.tar")
    place = damage_header(path, "000000002.png")
    ran = vlv("bulk", source, tmp_path / "out", *FAST, "--json")
    # The damage, and the sample whose image it hit.
    assert (numbers(ran.out)["ok"], numbers(ran.out)["failed"]) == (4, {"bad-sample": 2})
    failed = (tmp_path / "out" / ".vlv-bulk" / "failed.jsonl").read_text()
    assert f"damaged at byte {place}" in failed


@pytest.mark.parametrize("kind", ["txt", "folder", "parquet", "webdataset"])
def test_results_of_every_kind(vlv: Callable, pictures: Path, tmp_path: Path, kind: str) -> None:
    vlv("bulk", pictures, tmp_path / "jsonl", *FAST)
    expected = captions(tmp_path / "jsonl")
    out = tmp_path / "out"
    ran = vlv("bulk", pictures, out, *FAST, "--output-format", kind, "--prepend", "")
    assert ran.code == 0, ran.err
    if kind == "txt":
        texts = {
            str(file.relative_to(out).with_suffix(".png")): file.read_text().strip()
            for file in out.rglob("*.txt")
        }
        assert texts == expected
        return
    read = [sample.caption for sample in read_set(out)] if kind != "folder" else None
    if kind == "folder":
        # kohya's layout: images with captions beside them; and Hugging Face's.
        rows = load_dataset("imagefolder", data_dir=str(out), split="train")
        read = rows["text"]
        assert rows[0]["image"].size == (64, 64)
    elif kind == "parquet":
        files = sorted(map(str, out.glob("*.parquet")))
        rows = load_dataset("parquet", data_files=files, split="train")
        assert rows["caption"] == read
    else:
        shards = sorted(map(str, out.glob("*.tar")))
        rows = [row["txt"].decode() for row in WebDataset(shards, shardshuffle=False)]
        assert [text.strip() for text in rows] == read
    assert sorted(read) == sorted(expected.values())


def marks(target: Path) -> dict[Path, int]:
    """Of the shards that are done, when they were."""
    return {file: file.stat().st_mtime_ns for file in target.glob(MARKS)}


def until_shards_are_done(process: subprocess.Popen[bytes], target: Path, count: int) -> None:
    while process.poll() is None and len(marks(target)) < count:
        time.sleep(0.005)


def test_kills_lose_and_repeat_nothing(vlv: Callable, pictures: Path, tmp_path: Path) -> None:
    """Of a job's first process, once with a worker and once without."""
    target = tmp_path / "killed"
    for number in range(2):
        process = launcher.Popen(command(pictures, target, "--workers", "2"))
        until_shards_are_done(process, target, number + 1)
        if number and process.poll() is None:
            # None where the job was nearly done, as on a busy machine.
            for worker in workers(process)[:1]:
                with suppress(psutil.NoSuchProcess):
                    worker.kill()
        process.kill()
        process.wait()
    assert launcher.run(command(pictures, target, "--workers", "2")).returncode == 0
    vlv("bulk", pictures, tmp_path / "clean", *FAST)
    assert digest(target) == digest(tmp_path / "clean")
    assert len(captions(target)) == COUNT


@pytest.mark.slow
def test_ten_kills_of_everything_lose_and_repeat_nothing(vlv: Callable, tmp_path: Path) -> None:
    """All processes of a job at once; two of ten times before any shard is done."""
    pictures, target, at_once = tmp_path / "pictures", tmp_path / "killed", 2
    render_world(world_samples(240, seed=3), pictures)
    run = [*command(pictures, target, "--workers", at_once), "--shard-size", "2"]
    dice = random.Random(10)
    done: dict[Path, int] = {}
    for number in range(10):
        process = launcher.Popen(run, start_new_session=True)
        if number % 5:
            until_shards_are_done(process, target, len(done) + dice.randint(1, 4))
            time.sleep(dice.random() * 0.2)
        else:
            time.sleep(dice.random() * 3)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        # No shard that is done is done again; each worker had begun one other at most.
        assert done.items() <= marks(target).items()
        done = marks(target)
        begun = {file.name for file in (target / ".vlv-bulk" / "scratch").glob("0*")}
        assert len(begun - {file.stem for file in done}) <= at_once
    assert launcher.run(run).returncode == 0
    assert done.items() < marks(target).items()
    vlv("bulk", pictures, tmp_path / "clean", *FAST)
    assert digest(target) == digest(tmp_path / "clean")
    assert len(captions(target)) == 240


def test_an_image_that_kills_its_worker_is_left_out(
    vlv: Callable, pictures: Path, tmp_path: Path, deadly: Deadly
) -> None:
    name = deadly.add(pictures)
    ran = launcher.run(
        command(pictures, tmp_path / "out", "--json"),
        env=deadly.environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1, ran.stderr
    reported = numbers(ran.stdout)
    assert (reported["ok"], reported["failed"]) == (COUNT, {"crashed": 1})
    failed = json.loads((tmp_path / "out" / ".vlv-bulk" / "failed.jsonl").read_text())
    assert (failed["file_name"], failed["status"]) == (name, "crashed")
    # Twice in its group, and twice alone.
    assert deadly.deaths() == 4
    vlv("bulk", pictures, tmp_path / "clean", *FAST)
    clean = captions(tmp_path / "clean")
    assert clean.pop(name)
    assert captions(tmp_path / "out") == clean


def test_out_of_distribution_pictures_are_reported(
    vlv: Callable, pictures: Path, tmp_path: Path
) -> None:
    for number in range(3):
        noise = PILImage.effect_noise((64, 64), 90).convert("RGB")
        noise.save(pictures / f"noise {number}.png")
    ran = vlv("bulk", pictures, tmp_path / "out", *FAST, "--json")
    assert numbers(ran.out)["out_of_distribution"] == 3
    (line,) = [line for line in ran.err.splitlines() if "unlike" in line]
    assert "3 pictures are unlike those that this model was trained on" in line
    assert "(noise 0.png, noise 1.png and 1 more)" in line


def test_a_worker_that_dies_is_replaced(vlv: Callable, pictures: Path, tmp_path: Path) -> None:
    process = launcher.Popen(command(pictures, tmp_path / "out", "--workers", "1"))
    first_worker(process).kill()
    assert process.wait(timeout=300) == 0
    vlv("bulk", pictures, tmp_path / "clean", *FAST)
    assert digest(tmp_path / "out") == digest(tmp_path / "clean")


def test_sigterm_ends_cleanly(pictures: Path, tmp_path: Path) -> None:
    process = launcher.Popen(command(pictures, tmp_path / "out"), stderr=subprocess.PIPE, text=True)
    begun = tmp_path / "out" / ".vlv-bulk" / "job.json"
    until(lambda: begun.exists() or process.poll() is not None, 300)
    process.send_signal(signal.SIGTERM)
    _, reported = process.communicate(timeout=300)
    assert process.returncode == 143
    assert "the same command goes on with what is left" in reported
    assert launcher.run(command(pictures, tmp_path / "out")).returncode == 0
    assert len(captions(tmp_path / "out")) == COUNT


def test_a_file_that_cannot_grow_leaves_what_is_done(pictures: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    large = PILImage.effect_noise((256, 256), 90).convert("RGB")
    large.save(pictures / "z large.png")
    run = command(pictures, tmp_path / "out", "--output-format", "webdataset")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # which commands inherit
    try:
        ran = launcher.run(run, capture_output=True, text=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert ran.returncode == 1
    assert "File too large" in ran.stderr
    done = {file: file.read_bytes() for file in (tmp_path / "out").glob("*.tar")}
    assert len(done) == 3
    assert launcher.run(run).returncode == 0
    assert {file: file.read_bytes() for file in done} == done
    assert sum(1 for _ in read_set(tmp_path / "out")) == COUNT + 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nothing", "out"], "there is nothing at nothing"),
        (["pictures", "pictures", "--output-format", "parquet"], "pictures"),
        (
            ["pictures", "out", "--temperature", "1", "--num-beams", "2"],
            "samples of several beams depend on the batch size",
        ),
        (
            ["pictures", "out", "--output-format", "txt", "--caption-extension", "txt"],
            "caption extension",
        ),
        (
            ["pictures", "out", "--caption-extension", ".caption"],
            "of --output-format txt or folder",
        ),
        (["pictures", "out", "--ray-address", "127.0.0.1:6379"], "needs --engine ray"),
        (["pictures", "out", "--engine", "ray", "--device", "cuda:1"], "give --device cuda"),
    ],
)
def test_wrong_use(
    vlv: Callable,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = vlv("bulk", *args)
    assert ran.code == (1 if args[0] == "nothing" else 2)
    assert message in ran.err
    assert not (tmp_path / "out" / ".vlv-bulk").exists()


def test_a_trigger_word_begins_every_caption(pictures: Path, tmp_path: Path, vlv: Callable) -> None:
    vlv("bulk", pictures, tmp_path / "plain", *FAST)
    vlv("bulk", pictures, tmp_path / "triggered", *FAST, "--trigger", "ohwx ")
    plain, triggered = captions(tmp_path / "plain"), captions(tmp_path / "triggered")
    assert triggered == {name: f"ohwx, {text}" for name, text in plain.items()}
    other = vlv("bulk", pictures, tmp_path / "plain", *FAST, "--trigger", "ohwx")
    assert other.code == 2 and "trigger" in other.err
