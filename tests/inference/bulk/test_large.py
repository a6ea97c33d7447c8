"""What a job of millions of images needs: work that does not grow with each image or shard."""

import json
import sqlite3
import tracemalloc
from pathlib import Path

import datasets
import fsspec
import pytest
from PIL import Image
from tests.data.odd_shards import member, png

from vlv.data.walking import walk
from vlv.errors import DatasetError
from vlv.inference.bulk.captioning import ShardCaptioner
from vlv.inference.bulk.job import Job
from vlv.inference.bulk.layout import Layout
from vlv.inference.bulk.opening import opened
from vlv.inference.bulk.plan import Shard, read_plan, write_plan
from vlv.inference.bulk.reading import read_shard
from vlv.inference.bulk.tasks import Task
from vlv.inference.captioning import CaptionSettings
from vlv.inference.written import Replace, Written


def test_the_layout_of_the_source_is_looked_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.tar").touch()
    job = Job(str(tmp_path), tmp_path / "out", "jsonl")
    assert job.kind == "webdataset"
    (tmp_path / "a.tar").unlink()
    assert job.kind == "webdataset"
    assert Job(str(tmp_path), tmp_path / "out", "jsonl").kind == "folder"


def test_a_dataset_is_opened_once_for_all_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"image": [{"bytes": png(shade), "path": None} for shade in (1, 2)]}
    features = datasets.Features({"image": datasets.Image()})
    source = str(tmp_path / "set")
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(source)
    opened_sets, load = [], datasets.load_from_disk

    def counted(path: str) -> object:
        opened_sets.append(path)
        return load(path)

    monkeypatch.setattr(datasets, "load_from_disk", counted)
    for number in (0, 1):
        shard = Shard(number, first=number, images=1)
        (found,) = read_shard(source, "datasets", shard, tmp_path, bytes_needed=True)
        assert found.name == f"0000{number}/000000.png"
    assert opened_sets == [source]


def test_the_record_of_captions_is_read_line_by_line(tmp_path: Path) -> None:
    for _ in range(3):
        Written(tmp_path).note((f"{number:09d}.txt", f"caption {number}") for number in range(9000))
    record = Written(tmp_path)
    tracemalloc.start()
    record.compact()
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert record.count_lines() == 9000
    assert most < 1.5 * kept


def test_of_a_large_folder_only_names_are_in_memory(tmp_path: Path) -> None:
    count = 5000
    for number in range(count):
        (tmp_path / f"{number:09d}.png").touch()
    tracemalloc.start()
    found = sum(1 for _ in walk(tmp_path))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == count
    assert most < 150 * count  # a name takes 62 bytes, and 16 in two lists


def test_a_full_disk_for_the_names_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plan").mkdir()
    connect = sqlite3.connect

    def full(database: str) -> sqlite3.Connection:
        found = connect(database)
        found.execute("PRAGMA page_size = 512")
        found.execute("PRAGMA max_page_count = 3")
        return found

    monkeypatch.setattr(sqlite3, "connect", full)
    for number in range(20):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number:0100d}.png")
    with pytest.raises(DatasetError, match=r"database or disk is full\); free some space"):
        write_plan(Layout(str(tmp_path), "folder", 1000), tmp_path / "plan")


def test_a_shard_in_a_store_that_changes_or_is_not_given_spoils_no_caption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its failed images are tried again. Files in stores are not compared with what they were
    when they were captioned.
    """
    monkeypatch.setenv("VLV_SHARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VLV_REMOTE_PATIENCE", "0")
    system, out = fsspec.filesystem("memory"), tmp_path / "out"
    settings = CaptionSettings(num_beams=1, max_new_tokens=6)
    job = Job("memory://bulk/0.tar", out, "jsonl", captions=settings)
    rest = member("c.png", b"no image") + member("d.png", png(7)) + b"\0" * 1024

    def found() -> list[list[str]]:
        lines = map(json.loads, (out / ".vlv-bulk" / "00000.jsonl").read_text().splitlines())
        return [[one["file_name"], one["status"]] for one in lines]

    system.pipe("/bulk/0_stats.json", b'{"successes": 3}')
    system.pipe("/bulk/0.tar", member("a.png", png(0)) + rest)
    with opened(job, Replace.NONE, print), ShardCaptioner(job, "cpu", 1) as captioner:
        (shard,) = read_plan(job.folder)
        captioner.caption(Task(shard))
        before = found()
        assert [status for _, status in before] == ["ok", "unknown-format", "ok"]
        system.rm("/bulk/0.tar")
        captioner.caption(Task(shard, "failed"))
        assert found() == before
        system.pipe("/bulk/0.tar", member("b.png", png(9)) + rest)
        captioner.caption(Task(shard, "failed"))
        assert found() == [["00000/b.png", "ok"], *before[1:]]
    system.rm("/bulk", recursive=True)
