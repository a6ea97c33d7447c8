"""The index of a set: made in parallel, gone on with, small, flat in memory, and never stale."""

import gc
import io
import json
import os
import re
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from tests.conftest import Outcome
from tests.data.test_sets import a_sample, damage_header, some_samples
from tests.shared import until

from vlv.data.image_sets import ShardImages
from vlv.data.indexing import open_index
from vlv.data.set_index import ENTRY, IndexRecord, ShardRecord, read_index, record_path
from vlv.data.sets import write_set
from vlv.errors import DatasetError


def a_set(folder: Path, shards: int = 5) -> list[Path]:
    write_set(some_samples(3 * shards), folder, format="webdataset", shard_size=3)
    return sorted(folder.glob("*.tar"))


def test_processes_make_the_index_of_one(tmp_path: Path) -> None:
    files = a_set(tmp_path / "set")
    alone = open_index(files, tmp_path / "alone")
    seen: list[str] = []

    def watch(records):  # type: ignore[no-untyped-def]
        for record in records:
            seen.append(record.name)
            yield record

    shared = open_index(files, tmp_path / "shared", workers=2, watch=watch)
    assert np.array_equal(alone.entries, shared.entries)
    assert shared.record == alone.record
    assert seen == list(map(str, files))
    assert ENTRY.itemsize == 16
    assert shared.path.stat().st_size <= 192 + 16 * 15


def test_an_index_goes_on_shard_by_shard_and_sees_what_changed(tmp_path: Path) -> None:
    files, folder = a_set(tmp_path / "set"), tmp_path / "ix"

    class Stopped(Exception):
        pass

    def stop(records):  # type: ignore[no-untyped-def]
        for number, record in enumerate(records):
            if number == 2:
                raise Stopped
            yield record

    with pytest.raises(Stopped):
        open_index(files, folder, watch=stop)
    times = {part: part.stat().st_mtime_ns for part in folder.glob("shards/*")}
    assert len(times) == 3
    assert not list(folder.glob("*.npy"))
    first = open_index(files, folder)
    assert {part: part.stat().st_mtime_ns for part in times} == times
    before = len(list(folder.glob("shards/*")))
    write_set(some_samples(2), tmp_path / "other", format="webdataset")
    os.replace(tmp_path / "other" / "00000.tar", files[3])
    files[3].with_name("00003_stats.json").unlink()
    second = open_index(files, folder)
    assert len(list(folder.glob("shards/*"))) == before + 1
    assert second.sizes.tolist() == [3, 3, 3, 2, 3]
    assert second.record.fingerprint != first.record.fingerprint


def test_one_who_waits_for_an_index_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files, folder = a_set(tmp_path / "set"), tmp_path / "ix"
    begun, ended = Event(), Event()

    def held(records):  # type: ignore[no-untyped-def]
        begun.set()
        assert ended.wait(60)
        yield from records

    with ThreadPoolExecutor() as pool:
        first = pool.submit(open_index, files, folder, watch=held)
        assert begun.wait(60)
        second = pool.submit(open_index, files, folder)
        until(lambda: "waiting for another process" in caplog.text)
        ended.set()
        assert first.result().record == second.result().record
    made = next(path for path in folder.glob("*.npy"))
    assert caplog.messages == [f"waiting for another process, which makes {made}"]


def test_samples_in_pieces_and_without_images_are_left_out_and_named(tmp_path: Path) -> None:
    """As `tar cf 00000.tar *.png *.txt` writes them; they would be images without captions, and
    captions without images.
    """
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    write_set(some_samples(3), whole, format="folder")
    pieces.mkdir()
    a, b, c = sorted(path.stem for path in whole.glob("*.png"))
    with tarfile.open(pieces / "00000.tar", "w") as shard:
        for name in (f"{c}.txt", f"{a}.png", f"{b}.png", f"{b}.txt", f"{a}.txt", f"{c}.png"):
            shard.add(whole / name, name)
        shard.add(whole / f"{b}.txt", "alone.txt")
    index = open_index([pieces / "00000.tar"], tmp_path / "index")
    assert index.sizes.tolist() == [1]  # b
    found = {problem.key: problem.message for _, problem in index.record.problems}
    assert found.keys() == {a, c, "alone"}  # of c, the last of two problems
    for key in (a, c):
        assert f"the members of the sample {key} in the shard" in found[key]
    assert found["alone"].endswith("has no image")


def test_the_command_names_what_is_damaged(tmp_path: Path, vlv: Callable[..., Outcome]) -> None:
    files = a_set(tmp_path / "set")
    options = ["--index-folder", tmp_path / "ix", "--workers", "1"]
    outcome = vlv("data", "index", tmp_path / "set", *options)
    assert outcome.code == 0, outcome.err
    assert "15 samples in 5 shards" in outcome.out
    files[1].write_bytes(b"")
    damage_header(files[3], "000000010.png")
    files[3].with_name("00003_stats.json").unlink()
    outcome = vlv("data", "index", f"{tmp_path}/set/{{00000..00004}}.tar", *options, "--json")
    assert outcome.code == 1
    *problems, summary = map(json.loads, outcome.out.splitlines())
    assert [one["error"] for one in problems] == ["damaged-shard", *["damaged-sample"] * 2]
    assert str(files[1]) in problems[0]["message"]
    assert "the sample 000000010" in problems[2]["message"]
    assert (summary["samples"], summary["problems"]) == (11, 3)
    assert vlv("data", "index", tmp_path / "nothing").code == 1
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(a_sample(0).image)
    assert vlv("data", "index", tmp_path / "pictures").code == 2


def test_a_shard_that_cannot_be_opened_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    """As one of another user: made readable, it would look unchanged."""
    files, folder = a_set(tmp_path / "set"), tmp_path / "ix"
    content = files[1].read_bytes()
    files[1].unlink()
    files[1].mkdir()
    with pytest.raises(DatasetError, match=r"00001\.tar cannot be read .*; make it readable"):
        open_index(files, folder)
    assert not list(folder.glob("*.npy"))
    files[1].rmdir()
    files[1].write_bytes(content)
    assert open_index(files, folder).sizes.tolist() == [3] * 5


def synthetic(folder: Path, shard: Path, count: int) -> None:
    """An index of `count` samples, all of which are the one in `shard`."""
    path = folder / f"{count}.npy"
    entries = np.zeros(count, ENTRY)
    entries["size"] = shard.stat().st_size
    np.save(path, entries)
    records = [ShardRecord(name="0", state="", samples=count)]
    record = IndexRecord(fingerprint="", shards=records)
    record_path(path).write_text(record.model_dump_json())


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path) -> None:
    write_set(some_samples(1), tmp_path, format="webdataset")
    shard = tmp_path / "00000.tar"
    peaks = []
    for count in (10_000, 1_000_000):
        synthetic(tmp_path, shard, count)
        tracemalloc.start()
        images = ShardImages([shard], read_index(tmp_path / f"{count}.npy"))
        assert len(images) == count
        for number in np.random.default_rng(0).integers(count, size=300):
            assert images[int(number)].key == "000000000"
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000


def own_memory() -> int:
    """Bytes of this process that are in use and that no file backs, as mapped files are."""
    gc.collect()
    (line,) = re.findall(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    return 1024 * int(line)


@pytest.mark.slow
def test_making_an_index_keeps_a_small_record_of_each_shard(tmp_path: Path) -> None:
    """... and nothing of its samples: what an allocator keeps of freed memory is not counted."""
    first = tmp_path / "first.tar"
    with tarfile.open(first, "w") as tar:
        for number in range(200):
            member = tarfile.TarInfo(f"{number:09d}.png")
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(40):
        os.link(first, folder / f"{number:05d}.tar")
    held: list[int] = []

    def watch(records):  # type: ignore[no-untyped-def]
        for record in records:
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
            yield record

    tracemalloc.start()
    try:
        open_index(sorted(folder.glob("*.tar")), folder / "ix", watch=watch)
    finally:
        tracemalloc.stop()
    assert (held[35] - held[10]) / 25 < 1500


@pytest.mark.slow
def test_a_million_samples_are_indexed_in_less_memory_than_their_index_takes(
    tmp_path: Path,
) -> None:
    """Shards of 10,000 samples; the files of a set are one file under several names."""
    first = tmp_path / "first.tar"
    with tarfile.open(first, "w") as tar:
        for number in range(10_000):
            member = tarfile.TarInfo(f"{number:09d}.png")
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
    most: dict[int, int] = {}
    for shards in (1, 100):
        folder = tmp_path / str(shards)
        folder.mkdir()
        for number in range(shards):
            os.link(first, folder / f"{number:05d}.tar")
        before = own_memory()
        sizes = [before]

        def watch(records, sizes=sizes):  # type: ignore[no-untyped-def]
            for record in records:
                sizes.append(own_memory())
                yield record

        started = time.process_time()
        index = open_index(sorted(folder.glob("*.tar")), folder / "ix", watch=watch)
        seconds = time.process_time() - started
        sizes.append(own_memory())
        most[shards] = max(sizes) - before
        count = len(index.entries)
        assert count == 10_000 * shards
        each = (index.path.stat().st_size + record_path(index.path).stat().st_size) / count
        print(
            f"{count:,} samples: {each:.2f} bytes each, {most[shards]:,} bytes of memory, ", end=""
        )
        print(f"{1e6 * seconds / count:.0f} CPU microseconds each")
        assert each < 64
    assert most[100] < 16 * 1_000_000
