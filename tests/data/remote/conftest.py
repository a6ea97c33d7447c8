"""What the tests of object stores share: one running S3 server, and a cache of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
from tests.data.remote.stores import Store, running


@pytest.fixture(scope="session")
def server() -> Iterator[Store]:
    """A running store."""
    with running() as store:
        yield store


@pytest.fixture
def store(server: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    """The store as this process's environment names it, with an empty cache."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("VLV_SHARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VLV_REMOTE_PATIENCE", "20")
    # Clients are kept with the settings that they began with, such as another server's address.
    s3fs.S3FileSystem.clear_instance_cache()
    yield server
    s3fs.S3FileSystem.clear_instance_cache()
