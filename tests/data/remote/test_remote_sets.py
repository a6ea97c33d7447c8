"""Sets in a real object store are read as those on disk, and what fails is one sentence."""

import os
from pathlib import Path

import pytest
from tests.data.remote.stores import BUCKET, Store
from tests.data.test_sets import some_samples

from vlv.data.image_sets import open_image_set
from vlv.data.lenient import Unusable
from vlv.data.remote.locations import anywhere
from vlv.data.sets import read_set, write_set
from vlv.data.teacher.sets import dataset_items
from vlv.errors import ConfigError, DatasetError
from vlv.inference.bulk.job import Job
from vlv.inference.bulk.opening import _check_same
from vlv.inference.bulk.ray_engine import _absolute
from vlv.inference.inputs import find_inputs, inputs_of


@pytest.fixture(params=["webdataset", "parquet"])
def local(request: pytest.FixtureRequest, tmp_path: Path, store: Store) -> Path:
    """Seven samples in three files on disk, which are in the store too."""
    folder = tmp_path / request.param
    write_set(some_samples(), folder, format=request.param, shard_size=3)
    store.put(folder, request.param)
    return folder


def test_every_name_of_a_set_reads_it(local: Path, tmp_path: Path) -> None:
    wanted = list(read_set(local))
    suffix = ".tar" if local.name == "webdataset" else ".parquet"
    url = f"s3://{BUCKET}/{local.name}"
    for name in (
        *(url, f"{url}/", f"{url}/*{suffix}", f"{url}/{{00000..00002}}{suffix}"),
        *(f"file://{local}", f"{local}/{{00000..00002}}{suffix}", f"{local}/*{suffix}"),
    ):
        assert list(read_set(Path(name))) == wanted, name
        images = open_image_set(Path(name), index_folder=tmp_path / "indexes")
        assert [images[index] for index in range(len(images))] == wanted, name
        assert images.is_remote == name.startswith("s3:")


def test_commands_read_what_they_read_from_disk(local: Path) -> None:
    url = Path(f"s3://{BUCKET}/{local.name}/*{'.tar' if 'web' in local.name else '.parquet'}")
    names = [name for name, _ in dataset_items(local)]
    assert [name for name, _ in dataset_items(url)] == names
    on_disk = [one.image for one in inputs_of([], find_inputs([local]).sets)]  # type: ignore[union-attr]
    for name in (url, Path(f"s3://{BUCKET}/{local.name}"), Path(f"file://{local}")):
        found = find_inputs([name])
        assert [one.image for one in inputs_of([], found.sets)] == on_disk  # type: ignore[union-attr]


def test_what_a_store_has_besides_sets_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "notes.txt").touch()
    store.put(tmp_path, "images")
    for name in ("a.png", "notes.txt", "no-such.png"):
        found = find_inputs([Path(f"s3://{BUCKET}/images/{name}")])
        assert not found.sets
        assert [one.reason for one in found.refused] == ["url"]
    with pytest.raises(DatasetError, match=r"/images holds no .tar or .parquet files"):
        find_inputs([Path(f"s3://{BUCKET}/images")])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("s3://no-such-bucket/0.tar", "it is not there); check its bucket"),
        (f"s3://{BUCKET}/nothing/0.tar", "it is not there"),
        (f"s3://{BUCKET}/nothing/*.tar", "holds no .tar files"),
        ("https://127.0.0.1:1/0.tar?signature=SECRET", "check the address and the network"),
        ("https://me:SECRET@127.0.0.1:1/0.tar", "https://127.0.0.1:1/0.tar cannot be read"),
        ("s3://ID:SECRET@bucket/0.tar", "holds a user or a key"),
        ("gs://bucket/0.tar", "needs gcsfs, which is not installed"),
        ("/nothing/{0..1.tar", "the braces of /nothing/{0..1.tar do not fit together"),
    ],
)
def test_a_wrong_name_is_one_sentence_without_keys(
    store: Store,
    name: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("VLV_REMOTE_PATIENCE", "0.1")
    with pytest.raises((DatasetError, ConfigError)) as raised:
        list(read_set(Path(name), format="webdataset"))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "SECRET" not in str(raised.value) + caplog.text


def test_missing_credentials_are_one_sentence(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DatasetError, match=r"no credentials were found.*environment variables"):
        list(read_set(Path(f"s3://{BUCKET}/0.tar")))


def test_a_damaged_sample_is_named_by_its_url(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    write_set(some_samples(3), folder, format="webdataset")
    shard = folder / "00000.tar"
    shard.write_bytes(shard.read_bytes()[:2000] + b"x" * 512 + shard.read_bytes()[2512:])
    store.put(folder, "bad")
    url = f"s3://{BUCKET}/bad/00000.tar"
    with pytest.raises(DatasetError, match=f"the shard {url} is damaged at byte"):
        list(read_set(Path(url)))
    problems = [one.message for _, one in dataset_items(Path(url)) if isinstance(one, Unusable)]
    assert any(f"the shard {url} is damaged" in message for message in problems)
    assert not any(os.environ["VLV_SHARD_CACHE"] in message for message in problems)


def test_a_shard_that_changes_while_it_is_read_is_named(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "changing"
    write_set(some_samples(3), folder, format="webdataset")
    store.put(folder, "changing")
    url = Path(f"s3://{BUCKET}/changing/00000.tar")
    images = open_image_set(url, index_folder=tmp_path / "indexes")
    write_set(some_samples(5), folder, format="webdataset")
    store.put(folder, "changing")
    for copy in Path(os.environ["VLV_SHARD_CACHE"]).glob("shards/*/*"):
        copy.unlink()
    with pytest.raises(DatasetError, match="has changed since the set was opened"):
        images[0]
    assert len(open_image_set(url, index_folder=tmp_path / "indexes")) == 5


def test_a_server_that_fails_cuts_and_is_slow_costs_no_sample(
    store: Store, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = list(read_set(local))
    for name, value in store.environment(bad=True).items():
        monkeypatch.setenv(name, value)
    assert list(read_set(Path(f"s3://{BUCKET}/{local.name}"))) == wanted


def test_a_job_on_another_url_shows_no_key(tmp_path: Path) -> None:
    jobs = [Job(f"https://h/{number}.tar?sig=SECRET", tmp_path, "jsonl") for number in (0, 1)]
    old, new = ({"version": 2, "settings": job.settings(), "weights": "a"} for job in jobs)
    with pytest.raises(ConfigError, match=r"source 'https://h/1\.tar' instead of") as raised:
        _check_same(jobs[1], tmp_path, old, new)
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize("url", ["s3://bucket/set/{00000..00002}.tar", "hf://datasets/a/b/set"])
def test_workers_in_another_folder_ask_for_the_same_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert anywhere(Path(url)) == anywhere(url) == url
    assert anywhere("sets/a.tar") == str(tmp_path / "sets" / "a.tar")
    assert anywhere(f"file://{tmp_path}/sets") == str(tmp_path / "sets")
    job = Job(url, Path("out"), "webdataset", model="vlv-mini")
    assert (_absolute(job).source, _absolute(job).target) == (url, tmp_path / "out")
