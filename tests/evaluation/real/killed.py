"""Commands in processes of their own that are really killed."""

import subprocess
import time
from collections.abc import Callable, Sequence

from tests import launcher

_VLV = ("-c", "from vlv.cli import main; main()")


def start(words: Sequence[object]) -> "launcher.Popen[str]":
    return launcher.Popen(
        [launcher.sys.executable, *_VLV, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_when(words: Sequence[object], reached: Callable[[], bool]) -> None:
    """Start a command and kill it as soon as this is so; it must not have ended by itself."""
    process = start(words)
    end = time.monotonic() + 300
    while process.poll() is None and not reached() and time.monotonic() < end:
        time.sleep(0.002)
    process.kill()
    out, err = process.communicate()
    assert process.returncode == -9, f"ended before it was killed: {process.returncode} {out}{err}"


def finish(words: Sequence[object]) -> str:
    """Run a command to its end; what it prints."""
    process = start(words)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out
