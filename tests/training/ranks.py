"""`python -m tests.training.ranks STAGE MACHINES CONFIG...`: a stage on as many processes as there
are configs, one for each, forked where everything is imported. When one fails the others are
killed, as torchrun does.
"""

import itertools
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from subprocess import DEVNULL, PIPE

import psutil
from tests import launcher
from tests.launcher import Popen
from tests.shared import free_port

from vlv import files
from vlv.errors import VLVError
from vlv.training import checkpoint, checkpoint_files, sharding
from vlv.training.loop import train
from vlv.training.registry import build_stage

# Frozen blocks of at least so many bytes are spread: those of tests are small.
FROZEN_BYTES = "VLV_TESTS_FROZEN_BYTES"
# `RANK NUMBER`: that process is killed when it comes to sync a file for the NUMBERth time.
KILLED_AT = "VLV_TESTS_KILLED_AT"
# Seconds that a disk takes to sync a file.
SLOW_DISK = "VLV_TESTS_SLOW_DISK"

# Seconds after which a run hangs: many, since the machine may do other work.
DEADLINE = 1200
_STARTED: list[Popen[str]] = []


def end_all() -> None:
    """Kill what a test that failed has left running, which would take the cores of the others."""
    while _STARTED:
        process = _STARTED.pop()
        if process.poll() is not None:
            continue
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()


def _started(process: Popen[str]) -> Popen[str]:
    _STARTED.append(process)
    return process


def start(stage: str, configs: list[Path], machines: int = 1) -> Popen[str]:
    """One process that has a child for each config, in the order of ranks."""
    command = [sys.executable, "-m", "tests.training.ranks", stage, str(machines)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    words = [*command, *map(str, configs)]
    return _started(Popen(words, env=environment, stderr=-1, stdout=-1, text=True))


def run(stage: str, configs: list[Path], machines: int = 1) -> tuple[int, str]:
    """How the processes ended, and what they said."""
    process = start(stage, configs, machines)
    try:
        _, errors = process.communicate(timeout=DEADLINE)
    finally:
        process.terminate()
    return process.returncode, errors


def start_ranks(stage: str, config: Path, count: int) -> list[Popen[str]]:
    """`vlv train`, once for each rank."""
    port = str(free_port())
    words = [sys.executable, "-m", "vlv.cli", "train", stage, "--config", str(config)]
    return [
        _started(
            Popen(
                words,
                env={
                    **os.environ,
                    "ACCELERATE_USE_CPU": "true",
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(count),
                    "LOCAL_WORLD_SIZE": str(count),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": port,
                },
                stdout=DEVNULL,
                stderr=PIPE,
                text=True,
            )
        )
        for rank in range(count)
    ]


def torchrun(count: int, *words: str, module: str = "vlv.cli") -> Popen[str]:
    """`python -m MODULE WORDS` on `count` processes of one machine, by torchrun."""
    command = [sys.executable, "-c", launcher.RANKS, "--standalone"]
    command += ["--nproc_per_node", str(count), "-m", module, *words]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return _started(Popen(command, env=environment, stdout=DEVNULL, stderr=PIPE, text=True))


def children_of(process: Popen[str]) -> list[psutil.Process]:
    """What a command has started, in order; its launcher is not among them."""
    children = psutil.Process(process.pid).children()
    found = [child for child in children if child.name() != launcher.NAME]
    return sorted(found, key=lambda child: child.create_time())


def _be_killed_at_sync(number: int) -> None:
    left = itertools.count(number - 1, -1)

    def sync(path: Path) -> None:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        files.sync(path)

    checkpoint.sync = checkpoint_files.sync = sync


def _sync_in(seconds: float) -> None:
    def sync(path: Path) -> None:
        time.sleep(seconds)
        files.sync(path)

    checkpoint.sync = checkpoint_files.sync = sync


def _rank(rank: int, stage: str, config: Path) -> int:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    sharding.FROZEN_BYTES = int(os.environ.get(FROZEN_BYTES, sharding.FROZEN_BYTES))
    if KILLED_AT in os.environ:
        victim, number = map(int, os.environ[KILLED_AT].split())
        if rank == victim:
            _be_killed_at_sync(number)
    if SLOW_DISK in os.environ:
        _sync_in(float(os.environ[SLOW_DISK]))
    try:
        train(build_stage(stage, config))
    except VLVError as error:
        print(f"vlv: {error}", file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 9
    return 0


def main(stage: str, machines: str, *configs: str) -> int:
    port = free_port()
    count = len(configs)
    os.environ.update(WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count // int(machines)))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    ranks = []
    for rank, config in enumerate(configs):
        child = os.fork()
        if child == 0:
            code = _rank(rank, stage, Path(config))
            sys.stderr.flush()
            os._exit(code)
        ranks.append(child)

    def end(*_: object) -> None:
        for one in ranks:
            os.kill(one, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end)
    worst = 0
    while ranks:
        child, status = os.waitpid(-1, 0)
        if child not in ranks:
            continue
        ranks.remove(child)
        code = os.waitstatus_to_exitcode(status)
        if code not in (0, 1) and not worst:
            end()
        worst = worst or abs(code)
    return worst


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
