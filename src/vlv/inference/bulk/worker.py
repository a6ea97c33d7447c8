"""A worker process: captions the shards that it receives until there are no more.

Its messages to the supervisor are the classes here and `AtWork`. It announces images before it
works on them and waits for an answer, so that the supervisor knows what it did when it died.
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

from vlv.errors import EngineStopped, VLVError
from vlv.inference.bulk.job import Job
from vlv.inference.bulk.tasks import AtWork


@dataclass(frozen=True)
class Free:
    """The worker waits for a task; `done` counts the results of the last one."""

    done: Counter[str] | None = None


@dataclass(frozen=True)
class Alive:
    """The worker has not been stopped."""


@dataclass(frozen=True)
class Failed:
    """The job cannot go on, with any worker."""

    error: VLVError | OSError


def work(connection: Connection, job: Job, device: str | None, threads: int, cores: int) -> None:
    """The process's main function.

    Args:
        connection: to the supervisor.
        job: the job of its shards.
        device: of the model.
        threads: torch's threads on a CPU; 0 keeps torch's own number.
        cores: processes for decoding.
    """
    # Ctrl-C in a terminal reaches every process; only the supervisor handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    channel = _Channel(connection)
    threading.Thread(target=channel.signs_of_life, daemon=True).start()
    try:
        _work(channel, job, device, threads, cores)
    except EOFError:
        pass  # the supervisor is gone
    except EngineStopped as error:
        # An image may have caused that too, and the next worker has an engine of its own.
        print(f"vlv: {error}; its worker is replaced", file=sys.stderr)
        sys.exit(1)
    except (VLVError, OSError) as error:
        channel.send(Failed(error))
    except Exception:
        # An image may have caused any error; the supervisor finds out which image.
        traceback.print_exc(file=sys.stderr)
        sys.exit(1)


class _Channel:
    """The connection to the supervisor, shared by two threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self.receive = connection.recv

    def send(self, message: Free | AtWork | Alive | Failed) -> None:
        """Send a message."""
        with self._lock:
            self._connection.send(message)

    def signs_of_life(self) -> None:
        """Send `Alive` every second."""
        with contextlib.suppress(OSError):  # the supervisor is gone
            while True:
                self.send(Alive())
                time.sleep(1)


def _work(channel: _Channel, job: Job, device: str | None, threads: int, cores: int) -> None:
    import torch

    from vlv.inference.bulk.captioning import ShardCaptioner

    if threads:
        torch.set_num_threads(threads)

    def announce(first: int, count: int) -> None:
        channel.send(AtWork(first, count))
        channel.receive()

    with ShardCaptioner(job, device, cores) as captioner:
        channel.send(Free())
        while (task := channel.receive()) is not None:
            channel.send(Free(captioner.caption(task, announce)))


def _end_with_parent() -> None:
    """End the process with its parent: a new run would give its shard to another worker."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
