"""`vlv data` on a set in a store gives what it gives on disk."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from tests.data.remote.stores import BUCKET, Store
from tests.data.teacher.server import Reply, good_caption, running

from vlv.data.items import count_items, origins
from vlv.data.sets import write_set
from vlv.data.world_sets import world_samples


@pytest.fixture
def local(tmp_path: Path, store: Store) -> Path:
    """Eight scenes in three shards on disk, which are in the store too."""
    folder = tmp_path / "scenes"
    write_set(world_samples(8, seed=3), folder, format="webdataset", shard_size=3)
    store.put(folder, "scenes")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Shards and lists of a result, by name; its pages name the source."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.suffix in (".tar", ".parquet", ".jsonl")
    }


@pytest.mark.parametrize(
    "command",
    [("convert", "--output-format", "webdataset", "--shard-size", 5), ("curate", "--workers", 2)],
    ids=lambda command: command[0],
)
def test_sets_in_a_store_are_written_as_those_on_disk(
    vlv: Callable, local: Path, tmp_path: Path, command: tuple[object, ...]
) -> None:
    name, *flags = command
    url = f"s3://{BUCKET}/scenes/{{00000..00002}}.tar"
    for source, target in ((local, "disk"), (url, "store")):
        ran = vlv("data", name, source, tmp_path / target, *flags)
        assert ran.code == 0, ran.err
    made = files(tmp_path / "store")
    assert made == files(tmp_path / "disk")
    assert any(name.endswith(".tar") for name in made)


def test_sets_in_a_store_are_inspected(vlv: Callable, local: Path) -> None:
    found = [
        json.loads(vlv("data", "inspect", source, "--json").out.splitlines()[-1])
        for source in (local, f"s3://{BUCKET}/scenes")
    ]
    assert found[1]["images"] == 8
    for one in found:
        one.pop("source", None)
    assert found[0] == found[1]


def test_metadata_in_a_store_is_curated(vlv: Callable, store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "metadata"
    folder.mkdir()
    columns = {
        "url": [f"https://images.example/{number}.jpg" for number in range(20)],
        "caption": [f"picture {number}" for number in range(20)],
        "width": [100 * number for number in range(20)],
        "height": [1000] * 20,
    }
    pq.write_table(pa.table(columns), folder / "part-0.parquet")
    store.put(folder, "metadata")
    where = ("--where", "width >= 1000 and height > 512")
    for source, target in ((folder, "disk"), (f"s3://{BUCKET}/metadata", "store")):
        ran = vlv("data", "curate", source, tmp_path / target, *where)
        assert ran.code == 0, ran.err
    (kept,) = (tmp_path / "store" / "urls").glob("*.parquet")
    assert pq.read_table(kept).num_rows == 10
    assert files(tmp_path / "store" / "urls") == files(tmp_path / "disk" / "urls")


def test_stats_beside_shards_in_a_store_are_read(
    vlv: Callable, local: Path, store: Store, tmp_path: Path
) -> None:
    known = json.loads((local / "00000_stats.json").read_text())
    downloads = {"count": 9, "failed_to_download": 4, "failed_to_resize": 2}
    (local / "00000_stats.json").write_text(json.dumps({**known, **downloads}))
    # The count is wrong, so it can come only from here.
    (local / "00001_stats.json").write_text(json.dumps({**known, "successes": 5}))
    store.put(local, "counted")
    url = Path(f"s3://{BUCKET}/counted/{{00000..00002}}.tar")
    answers = store.answers()
    assert count_items(origins([url])) == 3 + 5 + 2
    assert not list((tmp_path / "cache").glob("shards/*/*"))  # no shard was fetched to count it
    assert store.answers() == answers
    ran = vlv("data", "curate", url, tmp_path / "out", "--json")
    summary = json.loads(ran.out)
    assert ran.code == 1 and "00001.tar holds 3 samples, its stats say 5" in ran.err
    assert summary["downloads"] == {
        "links": 9 + 3 + 2,
        "downloaded": 3 + 5 + 2,
        "failed_to_download": 4,
        "failed_to_resize": 2,
    }
    ran = vlv("data", "index", url, "--index-folder", tmp_path / "indexes", "--workers", 1)
    assert ran.code == 1 and "its stats say 5" in ran.err


def test_captions_of_a_set_in_a_store_cost_no_third_download(
    vlv: Callable, local: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The cache holds one shard, so whoever reads the set again fetches it again.
    largest = max(path.stat().st_size for path in local.glob("*.tar"))
    monkeypatch.setenv("VLV_SHARD_CACHE_SIZE", str(largest))
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.bad)
    store.behave(fail=0, slow=0)
    s3fs.S3FileSystem.clear_instance_cache()
    before = Counter(store.answers())
    with running(lambda image, _: Reply(good_caption(image))) as teacher:
        ran = vlv(
            *("data", "caption", f"s3://{BUCKET}/scenes", tmp_path / "out", "--model", "tutor"),
            *("--base-url", teacher.url),
        )
    assert ran.code == 0, ran.err
    lines = (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()
    assert len(lines) == 8 and all(json.loads(line)["teacher"] for line in lines)
    fetched = Counter(store.answers()) - before
    # Once for the estimate, which reads 200 images, and once to ask.
    assert {name: fetched[name] for name in fetched if name.endswith(".tar")} == dict.fromkeys(
        ("00000.tar", "00001.tar", "00002.tar"), 2
    )
