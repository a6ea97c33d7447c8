"""The cache of shards, used by several processes at once: its cap, its locks, and full disks."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import pytest
from tests.data.remote.stores import BUCKET, Store, bytes_in
from tests.shared import until

from vlv.data.remote.cache import shard_cache
from vlv.data.remote.locations import RemoteFile, expanded
from vlv.errors import ConfigError, DatasetError

SIZE, COUNT = 20_000, 9
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _processes_find_this_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a pool get the path of the process that makes them."""
    monkeypatch.syspath_prepend(ROOT)


def content(number: int) -> bytes:
    return random.Random(number).randbytes(SIZE)


@pytest.fixture(scope="session")
def uploaded(server: Store, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("uploaded")
    for number in range(COUNT):
        (folder / f"{number:05d}.tar").write_bytes(content(number))
    server.put(folder, "cached")
    return f"s3://{BUCKET}/cached"


@pytest.fixture
def files(uploaded: str, store: Store) -> list[RemoteFile]:
    found = expanded(uploaded, (".tar",))
    return [file for file in found if isinstance(file, RemoteFile)]


def held() -> int:
    """The bytes in the cache at this moment."""
    return bytes_in(shard_cache().folder)


def read_all(files: list[RemoteFile], seed: int, times: int) -> list[tuple[int, int]]:
    """In a process of its own: every file in an order of its own; the names of wrong ones."""
    wrong = []
    for at in range(times):
        order = list(range(len(files)))
        random.Random(f"{seed}/{at}").shuffle(order)
        for number in order:
            with files[number].on_disk() as path:
                first = path.read_bytes()
                time.sleep(0.002)
                if first != content(number) or path.read_bytes() != first:
                    wrong.append((seed, number))
    return wrong


def test_processes_together_keep_to_the_cap(
    files: list[RemoteFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    cap = 4 * SIZE
    monkeypatch.setenv("VLV_SHARD_CACHE_SIZE", str(cap))
    most = 0
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        runs = [pool.submit(read_all, files, seed, 2) for seed in range(3)]
        while not all(run.done() for run in runs):
            most = max(most, held())
            time.sleep(0.005)
        assert [run.result() for run in runs] == [[], [], []]
    assert 3 * SIZE <= max(most, held()) <= cap  # what is not in use stays, up to the cap


def test_processes_fetch_a_shard_once(
    files: list[RemoteFile], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.bad)
    store.behave(0, 0)
    before = store.answers()
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        runs = [pool.submit(read_all, files, 0, 1) for _ in range(3)]
        assert [run.result() for run in runs] == [[], [], []]
    store.behave()
    after = store.answers()
    names = [file.name for file in files]
    assert [after[name] - before.get(name, 0) for name in names] == [1] * COUNT


def test_the_shard_used_longest_ago_goes_and_one_in_use_stays(
    files: list[RemoteFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLV_SHARD_CACHE_SIZE", str(3 * SIZE))
    with files[0].on_disk() as used:
        for file in files[1:6]:
            with file.on_disk():
                pass
            time.sleep(0.01)
        assert used.read_bytes() == content(0)
        assert [file.is_on_disk() for file in files[:6]] == [True, False, False, False, True, True]
    with files[4].on_disk():
        pass
    with files[6].on_disk(), files[7].on_disk():
        assert [file.is_on_disk() for file in files[:8]] == [*[False] * 4, True, False, True, True]


FETCHER = """
import sys
from vlv.data.remote.locations import expanded
(file,) = expanded(sys.argv[1], (".tar",))
print("asks", flush=True)
with file.on_disk():
    pass
"""


def test_a_download_that_was_killed_blocks_nobody(
    files: list[RemoteFile], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.bad)
    store.behave(0, 1, 30)
    command = [sys.executable, "-c", FETCHER, files[0].url]
    part = shard_cache().folder / "shards"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        until(lambda: any(one.stat().st_size for one in part.glob("*/.part")))
        process.send_signal(signal.SIGKILL)
    (left,) = part.glob("*/.part")
    assert left.stat().st_size == SIZE  # it counts, until someone takes its place
    store.behave()
    monkeypatch.setenv("VLV_SHARD_CACHE_SIZE", str(SIZE))
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.good)
    for file in (files[1], files[0]):
        with file.on_disk() as path:
            assert path.read_bytes() == content(int(path.stem))
        assert held() == SIZE


def test_a_shard_larger_than_the_cache_is_named(
    files: list[RemoteFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLV_SHARD_CACHE_SIZE", "10KB")
    with (
        pytest.raises(DatasetError, match=r"00000\.tar has 20,000 bytes, more than .*_SIZE"),
        files[0].on_disk(),
    ):
        pass
    monkeypatch.setenv("VLV_SHARD_CACHE_SIZE", "much")
    with pytest.raises(ConfigError, match="is a size such as 50GB, not 'much'"):
        shard_cache()


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[str]:
    """A file system of `size` bytes; where mounting is not allowed, files of at most a part of it.
    Gives what the sentence says then.
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode == 0:
        try:
            yield "has no room for s3://"
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, hard))
    try:
        yield "cannot be written"
    finally:  # or all later tests of this process would fail as well
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    files: list[RemoteFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLV_SHARD_CACHE", str(tmp_path / "small"))
    with small_disk(tmp_path / "small", SIZE // 2) as message:
        with pytest.raises(DatasetError, match=message), files[0].on_disk():
            pass
        assert held() == 0
    assert os.environ["VLV_SHARD_CACHE"] == str(tmp_path / "small")


def test_a_disk_smaller_than_the_cap_loses_the_oldest_shards(
    files: list[RemoteFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLV_SHARD_CACHE", str(tmp_path / "small"))
    with small_disk(tmp_path / "small", 3 * SIZE) as message:
        if "no room" not in message:
            return
        for file in files:
            with file.on_disk() as path:
                assert path.read_bytes() == content(int(path.stem))
        assert 0 < held() <= 3 * SIZE
