"""`vlv bulk --engine ray`: the same bytes as from the own processes, whatever dies on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from tests.inference.bulk.jobs import (
    COUNT,
    MARKS,
    Deadly,
    captions,
    command,
    digest,
    numbers,
    scenes,
)
from tests.shared import free_port

RAY = ["--engine", "ray"]


def test_without_the_extra_the_error_names_it(
    vlv: Callable, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing else loads Ray; None in its place is what Python keeps for a module that is missing.
    monkeypatch.setitem(sys.modules, "ray", None)
    ran = vlv("bulk", pictures, tmp_path / "out", *RAY)
    assert ran.code == 2
    assert "needs ray; install it with: pip install -c constraints.txt 'vlv[ray]'" in ran.err
    assert not (tmp_path / "out").exists()


def done(*args: object, code: int = 0) -> None:
    assert subprocess.run(command(*args)).returncode == code


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the own processes make of the same pictures."""
    folder = tmp_path_factory.mktemp("own")
    done(scenes(folder / "pictures"), folder / "captions")
    return folder / "captions"


def same_records(one: Path, other: Path) -> bool:
    """Whether two jobs keep the same of each image and shard."""
    kept = [
        {file.name: file.read_bytes() for file in sorted((target / ".vlv-bulk").glob("0*"))}
        for target in (one, other)
    ]
    return bool(kept[0]) and kept[0] == kept[1]


def actors(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "MapWorker" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            pass  # it ended meanwhile
    return found


def begun(target: Path, *args: object) -> subprocess.Popen[bytes]:
    """A job that has done a shard or two, and is at work."""
    process = subprocess.Popen(command(pictures_of(target), target, *args))
    while process.poll() is None and not list(target.glob(MARKS)):
        time.sleep(0.02)
    assert process.poll() is None
    return process


def pictures_of(target: Path) -> Path:
    return target.parent / "pictures"


@pytest.mark.slow
def test_ray_writes_what_the_own_processes_write(pictures: Path, tmp_path: Path, own: Path) -> None:
    done(pictures, tmp_path / "ray", *RAY, "--workers", "2")
    assert digest(tmp_path / "ray") == digest(own)
    assert same_records(tmp_path / "ray", own)


@pytest.mark.slow
def test_ray_writes_the_same_shards_of_images(pictures: Path, tmp_path: Path) -> None:
    shards = ["--output-format", "webdataset"]
    done(pictures, tmp_path / "own", *shards)
    done(pictures, tmp_path / "ray", *shards, *RAY)
    assert digest(tmp_path / "ray") == digest(tmp_path / "own")
    assert same_records(tmp_path / "ray", tmp_path / "own")


@pytest.mark.slow
def test_an_actor_and_then_the_job_are_killed(pictures: Path, tmp_path: Path, own: Path) -> None:
    # One actor of one: what is left of the job is done by the one that Ray starts in its place.
    target = tmp_path / "actor"
    process = begun(target, *RAY)
    (actor,) = actors(process)
    actor.kill()
    assert process.wait(timeout=600) == 0
    assert digest(target) == digest(own)
    assert same_records(target, own)

    target = tmp_path / "job"
    process = begun(target, *RAY)
    process.kill()
    process.wait()
    done(pictures, target, *RAY)
    assert digest(target) == digest(own)

    target = tmp_path / "ended"
    process = begun(target, *RAY)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    done(pictures, target)
    assert digest(target) == digest(own)


@pytest.mark.slow
def test_an_image_that_kills_its_actor_is_left_out(
    pictures: Path, tmp_path: Path, own: Path, deadly: Deadly
) -> None:
    clean = captions(own)
    name = deadly.add(pictures)
    (pictures / "broken.png").write_bytes(b"no image")
    ran = subprocess.run(
        command(pictures, tmp_path / "ray", *RAY, "--json"),
        env=deadly.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert ran.returncode == 1
    reported = numbers(ran.stdout)
    assert (reported["ok"], reported["failed"]) == (COUNT, {"crashed": 1, "unknown-format": 1})
    assert deadly.deaths() == 4
    failed = (tmp_path / "ray" / ".vlv-bulk" / "failed.jsonl").read_text().splitlines()
    assert {json.loads(line)["file_name"] for line in failed} == {name, "broken.png"}
    assert captions(tmp_path / "ray") == clean
    # What failed is tried again, on a process that survives it.
    done(pictures, tmp_path / "ray", *RAY, "--retry-failed", code=1)
    assert captions(tmp_path / "ray").keys() == clean.keys() | {name}


@pytest.mark.slow
def test_a_cluster_that_runs_is_used_and_left(pictures: Path, tmp_path: Path, own: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    with cluster(address, environment):
        # Relative names, from a folder that is not the cluster's.
        by_environment = environment | {"RAY_ADDRESS": address}
        ran = subprocess.run(command("pictures", "ray", *RAY), env=by_environment, cwd=tmp_path)
        assert ran.returncode == 0
        assert digest(tmp_path / "ray") == digest(own)
        # It goes on after the job.
        by_option = command("pictures", "again", *RAY, "--ray-address", address)
        assert subprocess.run(by_option, env=environment, cwd=tmp_path).returncode == 0
        assert digest(tmp_path / "again") == digest(own)


@contextmanager
def cluster(address: str, environment: dict[str, str]) -> Iterator[None]:
    """One of this machine that answers at the address."""
    ray = str(Path(sys.executable).with_name("ray"))
    place, _, port = address.partition(":")
    start = [ray, "start", "--head", "--block", "--num-cpus=2", "--include-dashboard=false"]
    head = subprocess.Popen(
        [*start, f"--port={port}", f"--node-ip-address={place}"], env=environment
    )
    try:
        # `ray status` fails until the cluster answers.
        while subprocess.run([ray, "status", "--address", address], env=environment).returncode:
            assert head.poll() is None
        yield
    finally:
        head.terminate()
        head.wait(timeout=60)


@pytest.mark.slow
def test_no_cluster_at_the_address(pictures: Path, tmp_path: Path) -> None:
    args = command(pictures, tmp_path / "out", *RAY, "--ray-address", "127.0.0.1:1")
    ran = subprocess.run(args, capture_output=True, text=True)
    assert ran.returncode == 2
    assert "no Ray cluster answers at 127.0.0.1:1" in ran.stderr
