"""`vlv data curate`, killed again and again: the same bytes as from a run that nobody killed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests import launcher
from tests.data.curation.planted import digests, laion_metadata, planted_set

from vlv.cli.app import main

WORK = (".vlv-curate/records/0*", ".vlv-curate/duplicates.parquet", ".vlv-curate/written/0*")


def run(source: Path, target: Path, *options: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["data", "curate", str(source), str(target), *options])
    assert not stop.value.code


def marks(target: Path) -> int:
    """How many parts are done."""
    return sum(1 for pattern in WORK for _ in target.glob(pattern))


def kill_during(source: Path, target: Path, options: tuple[str, ...], goals: list[int]) -> int:
    """Start the command, kill it when so many parts are done, and so on; how often it was killed
    while it worked.
    """
    killed = 0
    for goal in goals:
        words = ["data", "curate", str(source), str(target), *options]
        command = [sys.executable, "-m", "vlv.cli", *words]
        process = launcher.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and marks(target) < goal:
            time.sleep(0.002)
        process.kill()
        killed += process.wait() == -signal.SIGKILL
    return killed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kills", "count", "workers"),
    [(2, 60, 2), (10, 600, 2)],
)
def test_kills_change_no_byte(tmp_path: Path, kills: int, count: int, workers: int) -> None:
    planted_set(tmp_path / "set", count, count // 6, format="webdataset", shard_size=10)
    options = ("--workers", str(workers), "--where", "width > 10")
    run(tmp_path / "set", tmp_path / "clean", options[2], options[3])
    # Every shard has a mark when it is examined and one when it is written.
    parts = 2 * len(list((tmp_path / "set").glob("*.tar"))) + 1
    # The last third is left, so that no run has ended before its kill comes.
    goals = np.linspace(1, 2 * parts // 3, kills).astype(int).tolist()
    assert kill_during(tmp_path / "set", tmp_path / "out", options, goals) == kills
    run(tmp_path / "set", tmp_path / "out", *options)
    assert digests(tmp_path / "out") == digests(tmp_path / "clean")


@pytest.mark.slow
def test_kills_change_no_link(tmp_path: Path) -> None:
    laion_metadata(tmp_path / "laion", rows=60_000, files=24)
    options = ("--paper", "--workers", "2")
    # The report names the folder in the command for img2dataset, so both have one name.
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "a")
        run(tmp_path / "laion", Path("links"), *options)
        patch.chdir(tmp_path / "b")
        goals = np.linspace(1, 22, 10).astype(int).tolist()
        assert kill_during(tmp_path / "laion", Path("links"), options, goals) == 10
        run(tmp_path / "laion", Path("links"), *options)
    assert digests(tmp_path / "a" / "links") == digests(tmp_path / "b" / "links")


@pytest.mark.slow
def test_sigterm_stops_with_its_code_and_the_same_command_goes_on(tmp_path: Path) -> None:
    planted_set(tmp_path / "set", 40, 0, format="webdataset", shard_size=5)
    words = [sys.executable, "-m", "vlv.cli", "data", "curate", tmp_path / "set", tmp_path / "out"]
    words += ["--workers", "2"]
    process = launcher.Popen(list(map(str, words)), stdout=subprocess.DEVNULL)
    while process.poll() is None and marks(tmp_path / "out") < 2:
        time.sleep(0.002)
    process.terminate()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    run(tmp_path / "set", tmp_path / "out")
    run(tmp_path / "set", tmp_path / "clean")
    assert digests(tmp_path / "out") == digests(tmp_path / "clean")
