"""`vlv bulk`: every image is counted once, whatever is killed, full or broken on the way."""

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from datasets import Dataset, Features, Image, load_dataset
from PIL import Image as PILImage
from webdataset import WebDataset

from vlv.data.folder import write_folder
from vlv.data.sets import read_set, write_set
from vlv.data.world_sets import world_samples

COUNT = 14
FAST = ["--num-beams", "1", "--max-new-tokens", "6", "--keep-unfinished", "--shard-size", "4"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Scenes in two folders, with names that need care."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    write_folder(world_samples(COUNT, seed=3), folder)
    for file in folder.glob("*.txt"):
        file.unlink()
    (folder / "metadata.jsonl").unlink()
    (folder / "a b").mkdir()
    for number, file in enumerate(sorted(folder.glob("*.png"))[: COUNT // 2]):
        file.rename(folder / "a b" / f"ä {number}.png")
    return folder


def captions(target: Path) -> dict[str, str]:
    lines = (target / "metadata.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert len({record["file_name"] for record in records}) == len(records)
    return {record["file_name"]: record["text"] for record in records}


def digest(target: Path) -> str:
    """Of all results: names and bytes, without the job's own files."""
    sum = hashlib.sha256()
    for file in sorted(target.rglob("*")):
        if file.is_file() and ".vlv-bulk" not in file.parts:
            sum.update(str(file.relative_to(target)).encode() + b"\0" + file.read_bytes())
    return sum.hexdigest()


def numbers(out: str) -> dict[str, Any]:
    return dict(json.loads(out))


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "vlv.cli", "bulk", *map(str, args), *FAST]


def test_all_images_are_captioned_in_order_once(
    vlv: Callable, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "broken.png").write_bytes(b"no image")
    (pictures / "empty.jpg").touch()
    ran = vlv("bulk", pictures, tmp_path / "one", *FAST, "--json")
    assert ran.code == 1
    told = numbers(ran.out)
    assert told["images"] == COUNT + 2 == told["images_in_this_run"]
    assert told["ok"] == COUNT
    assert told["failed"] == {"unknown-format": 1, "empty": 1}
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
    assert numbers(mended.out)["ok"] == COUNT + 1
    assert {name: text for name, text in captions(tmp_path / "one").items() if name in made} == made


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


def kill_at_random(pictures: Path, target: Path, kills: int, seed: int) -> None:
    """Run a job to its end, with so many SIGKILLs of the supervisor or a worker on the way."""
    dice = random.Random(seed)
    for number in range(kills):
        process = subprocess.Popen(command(pictures, target, "--workers", "2"))
        end = time.monotonic() + 60
        begun = len(list((target / ".vlv-bulk").glob("0*.json")))
        # From loading the model on to somewhere in the work.
        while process.poll() is None and time.monotonic() < end:
            if len(list((target / ".vlv-bulk").glob("0*.json"))) > begun:
                break
            time.sleep(0.01)
        time.sleep(dice.random())
        if process.poll() is None and number % 2:
            for child in psutil.Process(process.pid).children()[:1]:
                child.kill()
        process.kill()
        process.wait()
    assert subprocess.run(command(pictures, target, "--workers", "2")).returncode == 0


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_kills_lose_and_repeat_nothing(
    vlv: Callable, pictures: Path, tmp_path: Path, kills: int
) -> None:
    target = tmp_path / "killed"
    kill_at_random(pictures, target, kills, seed=kills)
    vlv("bulk", pictures, tmp_path / "clean", *FAST)
    assert digest(target) == digest(tmp_path / "clean")
    assert len(captions(target)) == COUNT


def test_a_worker_that_dies_is_replaced(vlv: Callable, pictures: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(command(pictures, tmp_path / "out", "--workers", "1"))
    supervisor = psutil.Process(process.pid)
    while not (workers := [c for c in supervisor.children() if c.memory_info().rss > 150e6]):
        time.sleep(0.02)
    workers[0].kill()
    assert process.wait(timeout=120) == 0
    vlv("bulk", pictures, tmp_path / "clean", *FAST)
    assert digest(tmp_path / "out") == digest(tmp_path / "clean")


def test_sigterm_ends_cleanly(pictures: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(command(pictures, tmp_path / "out"))
    while not (tmp_path / "out" / ".vlv-bulk" / "job.json").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert subprocess.run(command(pictures, tmp_path / "out")).returncode == 0
    assert len(captions(tmp_path / "out")) == COUNT


def test_a_file_that_cannot_grow_leaves_what_is_done(pictures: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    large = PILImage.effect_noise((256, 256), 90).convert("RGB")
    large.save(pictures / "z large.png")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    run = command(pictures, tmp_path / "out", "--output-format", "webdataset")
    ran = subprocess.run(run, preexec_fn=limit, capture_output=True, text=True)
    assert ran.returncode == 1
    assert "File too large" in ran.stderr
    done = {file: file.read_bytes() for file in (tmp_path / "out").glob("*.tar")}
    assert len(done) == 3
    assert subprocess.run(run).returncode == 0
    assert {file: file.read_bytes() for file in done} == done
    assert sum(1 for _ in read_set(tmp_path / "out")) == COUNT + 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nothing", "out"], "there is nothing at nothing"),
        (["pictures", "pictures", "--output-format", "parquet"], "pictures"),
        (["pictures", "out", "--temperature", "1"], "samples depend on the batch size"),
        (["pictures", "out", "--caption-extension", "txt"], "caption extension"),
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
