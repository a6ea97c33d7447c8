"""A process that captions the shards it is given, until it is told that there are no more.

What it says to the supervisor is one of the classes here. Before it works on images it says which
and waits for an answer, so that the supervisor knows what it was doing when it died.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait

from vlv.errors import VLVError
from vlv.inference.bulk.job import Job
from vlv.inference.bulk.tasks import AtWork


@dataclass(frozen=True)
class Free:
    """It waits for a task; `done` is what the images of the last one came to."""

    done: Counter[str] | None = None


@dataclass(frozen=True)
class Alive:
    """It has not been stopped."""


@dataclass(frozen=True)
class Failed:
    """The job cannot go on, whichever worker does it."""

    error: VLVError | OSError


def work(connection: Connection, job: Job, device: str | None, threads: int, cores: int) -> None:
    """The process's main function.

    Args:
        connection: to the supervisor.
        job: whose shards it is given.
        device: of the model.
        threads: of torch, on a CPU; 0 leaves torch's own number.
        cores: for decoding.
    """
    # Ctrl-C in a terminal reaches every process; the supervisor alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    said = _Said(connection)
    threading.Thread(target=said.signs_of_life, daemon=True).start()
    try:
        _work(said, job, device, threads, cores)
    except EOFError:
        pass  # the supervisor is gone
    except (VLVError, OSError) as error:
        said.send(Failed(error))
    except Exception:
        # Whatever an image did to the model; the supervisor finds out which image it was.
        traceback.print_exc(file=sys.stderr)
        sys.exit(1)


class _Said:
    """The connection to the supervisor, which two threads send to."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self.receive = connection.recv

    def send(self, said: Free | AtWork | Alive | Failed) -> None:
        """Say something."""
        with self._lock:
            self._connection.send(said)

    def signs_of_life(self) -> None:
        """Say every second that the process is not stopped."""
        with contextlib.suppress(OSError):  # the supervisor is gone
            while True:
                self.send(Alive())
                time.sleep(1)


def _work(said: _Said, job: Job, device: str | None, threads: int, cores: int) -> None:
    import torch

    from vlv.inference.bulk.captioning import ShardCaptioner

    if threads:
        torch.set_num_threads(threads)

    def announce(first: int, count: int) -> None:
        said.send(AtWork(first, count))
        said.receive()

    with ShardCaptioner(job, device, cores) as captioner:
        said.send(Free())
        while (task := said.receive()) is not None:
            said.send(Free(captioner.caption(task, announce)))


def _end_with_parent() -> None:
    """A worker without a supervisor would do what another one does by now."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
