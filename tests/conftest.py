"""What all tests share: no model hub, no silent skips, and the command line as a function.

A command in a process of its own starts with `tests.launcher`; a folder that takes long to make is
made once with `tests.shared`; tiny models are those of `tests.tiny`.
"""

import atexit
import gc
import multiprocessing.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from execnet import XSpec
    from playwright.sync_api import Browser

    from vlv.pipeline import VLV

# Before any library that reads them at import.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("VLV_MODEL", None)
# Tests run in as many processes as there are cores; each keeps to its own.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

_UNPROVEN = ("skipped", "xfailed", "xpassed")


def _unproven(config: pytest.Config) -> int:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return sum(len(reporter.stats.get(outcome, [])) for outcome in _UNPROVEN)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests of servers and killed runs wait much of their time."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: "Sequence[XSpec]") -> None:
    """The processes of the run are forked from one launcher, with the libraries imported once."""
    if sys.platform != "linux":
        return  # the launcher knows Linux only
    from tests import launcher

    folder = Path(tempfile.mkdtemp(prefix="vlv-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for spec in specs:
        spec.python = str(launcher.programs(folder / str(spec.id)) / "python")


def pytest_collection_finish() -> None:
    """What the libraries brought stays: no collection of garbage has to look at it again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run that skipped something has not shown that the project works."""
    if hasattr(session.config, "workerinput"):
        return  # one of several processes: the one that collects their results judges
    if exitstatus == pytest.ExitCode.OK and _unproven(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if _unproven(config):
        terminalreporter.write_line(
            "failed: tests were skipped or expected to fail, which proves nothing", red=True
        )


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def vlv(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run `vlv` with the given arguments in this process."""
    from vlv.cli.app import main

    def run(*args: object) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in args])
        captured = capfd.readouterr()
        return Outcome(int(stop.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def mini() -> "VLV":
    """The bundled model."""
    from vlv.pipeline import VLV

    return VLV.from_pretrained("vlv-mini")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Of torch, for tests that draw some without a seed: whatever ran before in this process."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _workers_start_at_once() -> Iterator[None]:
    """Processes that multiprocessing starts in this one are forked from the launcher."""
    new = multiprocessing.util.spawnv_passfds

    def fork(path: bytes, words: Sequence[Any], passed: Sequence[int]) -> int:
        from tests import launcher

        return launcher.spawnv_passfds(path, words, passed, new)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing.util, "spawnv_passfds", fork)
        yield


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Debian's Chromium; one for all tests, since playwright runs once in a process."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)  # 5 s are little on a machine that runs other tests
    # Chromium's sandbox does not start as root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        yield running
        running.close()
