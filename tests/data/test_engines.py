"""Data jobs on a Ray cluster: the same bytes as from the own processes, whatever is killed."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.data.curation.planted import digests as all_digests

from vlv.data.sets import write_set
from vlv.data.world_sets import world_samples

RAY = ("--engine", "ray", "--workers", "2")


def command(*args: object) -> list[str]:
    code = "from vlv.cli import main; main()"
    return [sys.executable, "-c", code, "data", *map(str, args)]


def done(*args: object, code: int = 0) -> str:
    ran = subprocess.run(command(*args), stdout=subprocess.PIPE, text=True)
    assert ran.returncode == code
    return ran.stdout


def begun(source: Path, target: Path, *args: object) -> subprocess.Popen[bytes]:
    """A conversion that has written a shard, and is at work."""
    process = subprocess.Popen(command("convert", source, target, *args))
    while process.poll() is None and not list(target.glob("*.tar")):
        time.sleep(0.005)
    assert process.poll() is None
    return process


def digests(target: Path) -> dict[str, str]:
    """The hashes of a result's files; the record of the job says when, too."""
    return {name: one for name, one in all_digests(target).items() if not name.startswith(".")}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of scenes, one of which is damaged and one no image."""
    folder = tmp_path / "set"
    write_set(world_samples(60, seed=4), folder, format="folder")
    first = sorted(folder.glob("*.png"))[20]
    first.write_bytes(first.read_bytes()[:400])
    (folder / "drawing.svg").write_text("<svg/>")
    return folder


@pytest.mark.parametrize("name", ["inspect", "convert", "split", "merge"])
def test_without_the_extra_the_error_names_it(
    vlv: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # Nothing else loads Ray; None in its place is what Python keeps for a module that is missing.
    monkeypatch.setitem(sys.modules, "ray", None)
    write_set(world_samples(1), tmp_path / "set", format="folder")
    target = () if name == "inspect" else (tmp_path / "out",)
    part = ("--fraction", "validation=10%") if name == "split" else ()
    ran = vlv("data", name, tmp_path / "set", *target, *part, "--engine", "ray")
    assert ran.code == 2
    assert "needs ray; install it with: pip install -c constraints.txt 'vlv[ray]'" in ran.err
    ran = vlv("data", name, tmp_path / "set", *target, *part, "--ray-address", "x:1")
    assert ran.code == 2 and "needs --engine ray" in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_ray_converts_as_the_own_processes_do(source: Path, tmp_path: Path) -> None:
    to = ("--resize", 48, "--output-format", "webdataset", "--shard-size", 7)
    done("convert", source, tmp_path / "own", *to, code=1)
    done("convert", source, tmp_path / "ray", *to, *RAY, code=1)
    own = digests(tmp_path / "own")
    assert digests(tmp_path / "ray") == own and len(own) == 2 * 9

    # What its processes were at when they died is done again.
    target = tmp_path / "died"
    process = begun(source, target, *to, *RAY)
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "_each_done" in " ".join(child.cmdline()):
                child.kill()
        except psutil.NoSuchProcess:
            pass  # it ended meanwhile
    assert process.wait(timeout=300) == 1
    assert digests(target) == own

    # Killed on Ray, it goes on with the own processes.
    target = tmp_path / "killed"
    process = begun(source, target, *to, *RAY)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done("convert", source, target, *to, code=1)
    assert digests(target) == own


@pytest.mark.slow
def test_ray_inspects_as_the_own_processes_do(source: Path, tmp_path: Path) -> None:
    found, pages = [], []
    for flags in ((), RAY):
        page = tmp_path / "page.html"
        found.append(done("inspect", source, "--json", "--html", page, *flags, code=1))
        pages.append(page.read_bytes())
    assert found[0] == found[1] and pages[0] == pages[1]
    assert '"unknown-format": 1' in found[0]
