"""A file that a store does not give may be good: it is not taken for a damaged one."""

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import fsspec
import pytest

from vlv.data.image_sets import open_image_set
from vlv.data.items import count_items, items, origins
from vlv.data.remote.store import StoreError
from vlv.data.samples import Sample
from vlv.data.sets import read_set, write_set
from vlv.data.teacher.captioning import image_hash
from vlv.data.teacher.request import Request
from vlv.data.teacher.sets import dataset_items, notes_of, write_captioned, write_lines
from vlv.data.world_sets import world_samples
from vlv.endpoints.endpoint import Answer
from vlv.endpoints.ledger import FOLDER, Ledger
from vlv.errors import DatasetError
from vlv.training.samples.captions import CaptionChoice
from vlv.training.samples.images import SetStore

# By their names: in the list of a folder, this store writes the time in another way.
URL = "memory://bucket/set/{00000..00001}.tar"


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Shards of two and of one scene in a store of this process, and a cache of their own."""
    write_set(world_samples(3), tmp_path / "set", format="webdataset", shard_size=2)
    system = fsspec.filesystem("memory")
    system.put(str(tmp_path / "set"), "/bucket/set", recursive=True)
    monkeypatch.setenv("VLV_SHARD_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "set"
    system.rm("/bucket", recursive=True)


@pytest.fixture
def too_small(shards: Path) -> str:
    """A size of the cache that has room for the second shard alone."""
    sizes = [path.stat().st_size for path in sorted(shards.glob("*.tar"))]
    assert sizes[1] < sizes[0]
    return str(sizes[1])


def test_a_system_that_reserves_no_room_reads_a_store(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As macOS."""
    monkeypatch.delattr(os, "posix_fallocate")
    assert list(read_set(Path(URL))) == list(read_set(shards))


@pytest.mark.parametrize("command", ["convert", "curate"])
def test_a_job_stops_and_goes_on_when_the_store_gives_it(
    vlv: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    too_small: str,
    command: str,
) -> None:
    target = tmp_path / "out"
    monkeypatch.setenv("VLV_SHARD_CACHE_SIZE", too_small)
    ran = vlv("data", command, URL, target, "--workers", "1")
    assert ran.code == 1 and "raise VLV_SHARD_CACHE_SIZE" in ran.err
    assert not list(target.glob("*.tar"))
    monkeypatch.setenv("VLV_SHARD_CACHE_SIZE", "50MB")
    assert vlv("data", command, URL, target, "--workers", "1").code == 0
    assert [item.sample.key for item in items(origins([target]))] == [
        f"{number:09d}" for number in range(3)
    ]


def test_training_takes_no_other_image_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, too_small: str
) -> None:
    images = open_image_set(Path(URL), index_folder=tmp_path / "index")
    store = SetStore(images, len(images), 64, CaptionChoice(False), captioned=False)
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setenv("VLV_SHARD_CACHE_SIZE", too_small)
    assert store.view(2).index == 2
    with pytest.raises(StoreError, match="raise VLV_SHARD_CACHE_SIZE"):
        store.view(1)


def test_no_captions_are_written_without_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, too_small: str
) -> None:
    """A result is written of images that are read once more."""
    target, request = tmp_path / "out", Request("tutor")
    with Ledger(target, request, "http://localhost/v1") as ledger:
        for _, sample in dataset_items(Path(URL)):
            assert isinstance(sample, Sample)
            ledger.write(image_hash(sample), 1, Answer("A cat.", "stop"), None, "A cat.")
        shutil.rmtree(tmp_path / "cache")
        monkeypatch.setenv("VLV_SHARD_CACHE_SIZE", too_small)
        with pytest.raises(DatasetError, match="raise VLV_SHARD_CACHE_SIZE"):
            write_lines(notes_of(dataset_items(Path(URL))), ledger, request, target)
        again = partial(write_captioned, ledger=ledger, request=request, target=target)
        with pytest.raises(DatasetError, match="raise VLV_SHARD_CACHE_SIZE"):
            again(dataset_items(Path(URL)), format="parquet", shard_size=3)
        assert [path.name for path in target.iterdir()] == [FOLDER]
        monkeypatch.setenv("VLV_SHARD_CACHE_SIZE", "50MB")
        assert again(dataset_items(Path(URL)), format="parquet", shard_size=3).captions == 3


def test_shards_without_stats_are_not_fetched_to_be_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: Path
) -> None:
    monkeypatch.setenv("VLV_REMOTE_PATIENCE", "0")
    inside = origins([Path(URL)])
    assert count_items(inside) == 3
    assert not (tmp_path / "cache" / "shards").exists()
    fsspec.filesystem("memory").rm(["/bucket/set/00000_stats.json", "/bucket/set/00001_stats.json"])
    assert count_items(inside) in (2, 3, 4)
    assert len(list((tmp_path / "cache" / "shards").iterdir())) == 1
