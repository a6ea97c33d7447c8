"""Sets on the Hub, on Azure and on Google Cloud, each by a server on the loopback."""

import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest
from tests.data.remote import hub
from tests.data.test_sets import some_samples
from tests.shared import free_port

from vlv.data.sets import read_set, write_set

AZURITE = "3.37.0"

# Prints a hash and the number of all samples of each set, or why it cannot be read. The libraries
# read where their servers are when they are imported, so it needs a process of its own.
READ = """
import hashlib, sys
from pathlib import Path
from vlv.data.sets import read_set
from vlv.errors import VLVError
for name in sys.argv[1:]:
    try:
        samples = list(read_set(Path(name)))
        print(hashlib.sha256(repr(samples).encode()).hexdigest(), len(samples))
    except VLVError as error:
        print(error)
"""


def read(cache: Path, *names: str, **environment: str) -> list[str]:
    ran = subprocess.run(
        [sys.executable, "-c", READ, *names],
        env={**os.environ, "VLV_SHARD_CACHE": str(cache), "HF_HUB_OFFLINE": "0", **environment},
        stdout=subprocess.PIPE,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 0
    return ran.stdout.splitlines()


def names_in(url: str) -> list[str]:
    """Three names of the shards of a folder in a store, and one of a shard that is not there."""
    return [f"{url}/{name}" for name in ("", "*.tar", "{00000..00002}.tar", "no.tar")]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_set(some_samples(), tmp_path / "set" / "shards", format="webdataset", shard_size=3)
    return tmp_path / "set" / "shards"


@pytest.fixture
def wanted(shards: Path) -> list[str]:
    """What `read` prints of `names_in`, but for the reason of the last."""
    samples = list(read_set(shards))
    assert len(samples) == 7
    return [f"{hashlib.sha256(repr(samples).encode()).hexdigest()} 7"] * 3


def test_a_dataset_on_the_hub_is_read_as_on_disk(
    shards: Path, wanted: list[str], tmp_path: Path
) -> None:
    with hub.running(shards.parent) as (address, asked):
        names = names_in(f"hf://datasets/{hub.REPOSITORY}/shards")
        *found, missing = read(tmp_path / "cache", *names, HF_ENDPOINT=address)
        assert found == wanted
        assert "no.tar cannot be read (it is not there)" in missing
        assert sum("resolve" in one for one in asked) >= 3
        (offline,) = read(tmp_path / "empty", names[0], HF_ENDPOINT=address, HF_HUB_OFFLINE="1")
        assert "HF_HUB_OFFLINE is set); unset it" in offline


def answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def served(command: list[str], port: int) -> Iterator[None]:
    """A server that runs inside the block."""
    process = subprocess.Popen(command)
    try:
        while not answers(port):
            assert process.poll() is None
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.mark.slow
def test_a_set_on_azure_is_read_as_on_disk(shards: Path, wanted: list[str], tmp_path: Path) -> None:
    """Azurite, Microsoft's own emulator, with its public account; needs npm and adlfs."""
    place = tmp_path / "azurite"
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", place]
    subprocess.run([*install, f"azurite@{AZURITE}"], check=True)
    port = free_port()
    command = [str(place / "node_modules" / ".bin" / "azurite-blob"), "--skipApiVersionCheck"]
    command += ["--silent", "--blobPort", str(port), "--location", str(tmp_path / "blobs")]
    connection = (
        "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;"
        "AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/"
        f"K1SZFPTOtr/KBHBeksoGMGw==;BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
    )
    with served(command, port):
        put("abfs", shards, {"connection_string": connection})
        for scheme in ("az", "abfs"):
            *found, missing = read(
                tmp_path / scheme,
                *names_in(f"{scheme}://pictures/shards"),
                AZURE_STORAGE_CONNECTION_STRING=connection,
            )
            assert found == wanted
            assert "no.tar cannot be read (it is not there)" in missing


@pytest.mark.slow
def test_a_set_on_google_cloud_is_read_as_on_disk(
    shards: Path, wanted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that speaks Google Cloud's API; needs gcsfs and gcp-storage-emulator."""
    # By default gcsfs asks another service, which no emulator has, about the kind of the bucket.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    port = free_port()
    command = [str(Path(sys.executable).with_name("gcp-storage-emulator")), "start"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--in-memory"]
    address = f"http://127.0.0.1:{port}"
    with served([*command, "--default-bucket", "pictures"], port):
        put("gs", shards, {"endpoint_url": address, "token": "anon"})
        *found, missing = read(
            tmp_path / "cache",
            *names_in("gs://pictures/shards"),
            STORAGE_EMULATOR_HOST=address,
            FSSPEC_GS_TOKEN="anon",
        )
        assert found == wanted
        assert "no.tar cannot be read (it is not there)" in missing


def put(scheme: str, folder: Path, options: dict[str, str]) -> None:
    """Upload shards into a container `pictures`."""
    store = fsspec.filesystem(scheme, **options)
    if scheme == "abfs":
        store.mkdir("pictures")
    for path in sorted(folder.glob("*.tar")):
        store.pipe_file(f"pictures/shards/{path.name}", path.read_bytes())
