"""`vlv data curate --engine ray`: the same bytes as from the own processes, whatever is killed."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.data.curation.planted import digests, laion_metadata, planted_set


def command(*args: object) -> list[str]:
    code = "from vlv.cli import main; main()"
    return [sys.executable, "-c", code, "data", "curate", *map(str, args)]


def done(*args: object) -> None:
    assert subprocess.run(command(*args)).returncode == 0


def test_without_the_extra_the_error_names_it(
    vlv: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing else loads Ray; None in its place is what Python keeps for a module that is missing.
    monkeypatch.setitem(sys.modules, "ray", None)
    laion_metadata(tmp_path / "laion", rows=4, files=1)
    ran = vlv("data", "curate", tmp_path / "laion", tmp_path / "out", "--engine", "ray")
    assert ran.code == 2
    assert "needs ray; install it with: pip install -c constraints.txt 'vlv[ray]'" in ran.err
    assert not (tmp_path / "out").exists()
    ran = vlv("data", "curate", tmp_path / "laion", tmp_path / "out", "--ray-address", "x:1")
    assert ran.code == 2 and "needs --engine ray" in ran.err


@pytest.mark.slow
def test_ray_writes_what_the_own_processes_write(tmp_path: Path) -> None:
    planted_set(tmp_path / "set", 90, 14, format="webdataset", shard_size=10)
    done(tmp_path / "set", tmp_path / "own", "--where", "width > 10")
    ray = ("--engine", "ray", "--workers", 2)
    done(tmp_path / "set", tmp_path / "ray", "--where", "width > 10", *ray)
    assert digests(tmp_path / "ray") == digests(tmp_path / "own")

    # Killed on Ray, it goes on with the own processes.
    target = tmp_path / "killed"
    process = subprocess.Popen(command(tmp_path / "set", target, "--where", "width > 10", *ray))
    while process.poll() is None and not list(target.glob(".vlv-curate/records/0*")):
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -9
    done(tmp_path / "set", target, "--where", "width > 10")
    assert digests(target) == digests(tmp_path / "own")


@pytest.mark.slow
def test_an_error_in_a_task_is_one_sentence(tmp_path: Path) -> None:
    laion_metadata(tmp_path / "laion", rows=50, files=3)
    wrong = ("--where", "CAST(TEXT AS INTEGER) > 5", "--engine", "ray")
    ran = subprocess.run(
        command(tmp_path / "laion", tmp_path / "out", *wrong), capture_output=True, text=True
    )
    assert ran.returncode == 1 and "cannot be applied to" in ran.stderr
    assert "Traceback" not in ran.stderr
