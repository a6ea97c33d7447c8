"""What tests of several rooms share: results that take long, made once in a run by the process that
needs them first; free ports; and waiting.
"""

import json
import os
import random
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from filelock import FileLock

from vlv.evaluation.results import Result, read_result, to_json

# From where on the system gives ports to whoever asks for any (Linux; others begin higher).
_GIVEN_TO_ANYONE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST_PORT, _LAST_PORT = 20_000, 32_767


def shared_folder(
    factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]
) -> Path:
    """A folder that `build` filled, in this process or another one of the run; for reading only."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each of several processes has a folder of its own in that of the run
    folder, done = base / "shared" / name, base / "shared" / f"{name}.done"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that could not finish it
            folder.mkdir()
            build(folder)
            done.touch()
    return folder


def shared_result(
    factory: pytest.TempPathFactory, name: str, measure: Callable[[], Result]
) -> Result:
    """What `measure` found, in this process or another one of the run."""

    def write(folder: Path) -> None:
        (folder / "result.json").write_text(json.dumps(to_json(measure())))

    return read_result(shared_folder(factory, name, write) / "result.json")


def free_port() -> int:
    """A port of the loopback interface that nobody listens on, for a server that starts soon.

    The system gives it to no client and no other server until then: it lies below the ports that
    those get. Processes of the run that choose at the same time choose by chance, of thousands.
    """
    last = _LAST_PORT
    if _GIVEN_TO_ANYONE.exists():
        last = min(last, int(_GIVEN_TO_ANYONE.read_text().split()[0]) - 1)
    # Not the numbers of `random` itself: forked processes would choose the same.
    chance = random.SystemRandom()
    for _ in range(1000 if last > _FIRST_PORT else 0):
        port = chance.randint(_FIRST_PORT, last)
        with suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def until(check: Callable[[], object], seconds: float = 60) -> None:
    """Wait until a check is true."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "the check stayed false"
        time.sleep(0.02)
