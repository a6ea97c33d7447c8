"""Hands shards to worker processes, and replaces those that die.

A shard whose worker dies is done again, with what `vlv.inference.bulk.attempts` concludes from the
death. Knows nothing of models and images.
"""

import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType

from vlv.inference.bulk.attempts import MAX_DEATHS, Attempt, too_many_deaths
from vlv.inference.bulk.captioning import Task
from vlv.inference.bulk.job import Job
from vlv.inference.bulk.worker import AtWork, Failed, Free, work


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    slot: int
    attempt: Attempt | None = None
    at: AtWork | None = None


class Supervisor:
    """Does tasks in worker processes, one for each of `devices`."""

    def __init__(self, job: Job, devices: list[str | None], threads: int, decoders: int) -> None:
        self._job = job
        self._devices = devices
        self._threads = threads
        self._decoders = decoders
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[Connection, _Worker] = {}
        self._again: deque[Attempt] = deque()
        self._deaths = 0

    def run(self, tasks: Iterator[Task], tell: Callable[[int], None]) -> None:
        """Do all tasks; `tell` is called with numbers of images that are done since its last call.

        Raises:
            VLVError, OSError: a worker cannot go on.
            ChildProcessError: workers die whatever they are given.
        """
        try:
            for slot in range(len(self._devices)):
                self._start(slot)
            while self._workers:
                ready = wait(list(self._workers))
                for connection in ready:
                    assert isinstance(connection, Connection)
                    tell(self._heard(self._workers[connection], tasks))
        finally:
            for worker in self._workers.values():
                worker.process.kill()
            for worker in self._workers.values():
                worker.process.join()

    def _start(self, slot: int) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=work,
            args=(theirs, self._job, self._devices[slot], self._threads, self._decoders),
            name=f"vlv-bulk-{slot}",
        )
        process.start()
        theirs.close()
        self._workers[ours] = _Worker(process, ours, slot)

    def _heard(self, worker: _Worker, tasks: Iterator[Task]) -> int:
        """Answer one message of a worker, or replace it; the number of images that are done."""
        try:
            said = worker.connection.recv()
            if isinstance(said, AtWork):
                return self._goes_on(worker, said)
            if isinstance(said, Free):
                return self._free(worker, said, tasks)
        except (EOFError, ConnectionError):
            self._died(worker)
            return 0
        assert isinstance(said, Failed)
        raise said.error

    def _goes_on(self, worker: _Worker, at: AtWork) -> int:
        attempt = worker.attempt
        assert attempt is not None
        if worker.at is not None:
            self._deaths = 0
        worker.at = at
        worker.connection.send(None)
        done = max(0, at.first - attempt.told)
        attempt.told += done
        return done

    def _free(self, worker: _Worker, free: Free, tasks: Iterator[Task]) -> int:
        done = 0
        if free.done is not None:
            assert worker.attempt is not None
            done = max(0, free.done.total() - worker.attempt.told)
            self._deaths = 0
        worker.at = None
        worker.attempt = self._again.popleft() if self._again else None
        if worker.attempt is None and (task := next(tasks, None)) is not None:
            worker.attempt = Attempt(task)
        worker.connection.send(worker.attempt.task if worker.attempt else None)
        if worker.attempt is None:
            self._forget(worker)
        return done

    def _died(self, worker: _Worker) -> None:
        self._forget(worker)
        self._deaths += 1
        if self._deaths >= MAX_DEATHS:
            raise too_many_deaths(f"with exit code {worker.process.exitcode}")
        if worker.attempt is not None:
            if worker.at is not None:
                worker.attempt.died(worker.at)
            self._again.append(worker.attempt)
        self._start(worker.slot)

    def _forget(self, worker: _Worker) -> None:
        del self._workers[worker.connection]
        worker.process.join()
        worker.connection.close()


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """SIGTERM and SIGINT raise SystemExit with 128 + the signal, inside the block."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
