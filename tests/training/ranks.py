"""Processes that share a run, started as a cluster's scheduler starts them: without a launcher."""

import os
import socket
import sys
from pathlib import Path
from subprocess import DEVNULL, PIPE

from tests.launcher import Popen


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start_ranks(stage: str, config: Path, count: int) -> list[Popen[str]]:
    """`vlv train`, once for each rank."""
    port = str(free_port())
    words = [sys.executable, "-m", "vlv.cli", "train", stage, "--config", str(config)]
    return [
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
        for rank in range(count)
    ]
