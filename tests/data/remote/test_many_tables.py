"""The ends of many tables in a store are read at the same time, and answered in order."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vlv.data.image_sets import open_image_set
from vlv.data.items import count_items, origins
from vlv.data.sets import write_set
from vlv.data.world_sets import world_samples
from vlv.inference.bulk.layout import Layout
from vlv.inference.bulk.plan import read_plan, write_plan

COUNT = 12
DAMAGED = 5


class Slow(BaseHTTPRequestHandler):
    """Gives parts of files, each after a while; the first files take longest."""

    protocol_version = "HTTP/1.1"
    folder: Path
    lock = threading.Lock()
    at_work = most = 0

    def do_HEAD(self) -> None:
        data = (self.folder / self.path[1:]).read_bytes()
        self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()

    def do_GET(self) -> None:
        with Slow.lock:
            Slow.at_work += 1
            Slow.most = max(Slow.most, Slow.at_work)
        time.sleep(0.02 * (COUNT - int(self.path[1:6])))
        data = (self.folder / self.path[1:]).read_bytes()
        first, last = map(int, re.findall(r"\d+", self.headers["Range"]))
        part = data[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        with Slow.lock:
            Slow.at_work -= 1
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Tables of two scenes each, the last of one, and a damaged one among them."""
    monkeypatch.setenv("VLV_SHARD_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    write_set(world_samples(2 * COUNT - 1), folder, format="parquet", shard_size=2)
    (folder / f"{DAMAGED:05d}.parquet").write_bytes(b"no table" * 10)
    Slow.folder, Slow.most = folder, 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/{{00000..{COUNT - 1:05d}}}.parquet"
        server.shutdown()


def counted(url: str, folder: Path) -> list[int]:
    return [count_items(origins([Path(url)]))]


def indexed(url: str, folder: Path) -> list[int]:
    sizes = open_image_set(Path(url), index_folder=folder).shard_sizes
    return [] if sizes is None else sizes.tolist()


def planned(url: str, folder: Path) -> list[int]:
    folder.mkdir()
    write_plan(Layout(url, "parquet", 1000), folder)
    shards = list(read_plan(folder))
    names = [int((shard.file or "").rpartition("/")[2][:5]) for shard in shards]
    assert names == [shard.number for shard in shards] == list(range(COUNT))
    return [shard.images or 0 for shard in shards if shard.groups]


GOOD = [2] * (COUNT - 2) + [1]


@pytest.mark.parametrize(
    ("read", "found"),
    [
        (counted, [sum(GOOD) + 1]),  # a damaged table counts as one image
        (indexed, [*GOOD[:DAMAGED], 0, *GOOD[DAMAGED:]]),
        (planned, GOOD),
    ],
)
def test_ends_of_tables(
    url: str, tmp_path: Path, read: Callable[[str, Path], list[int]], found: list[int]
) -> None:
    assert read(url, tmp_path / "new") == found
    assert 1 < Slow.most <= 16
