"""Gives shards to worker processes, and replaces workers that die.

A shard whose worker dies is done again, with what `vlv.inference.bulk.tasks` concludes from the
death.
"""

import multiprocessing
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess

from vlv.inference.bulk.job import Job
from vlv.inference.bulk.tasks import MAX_DEATHS, Attempt, AtWork, Task, too_many_deaths
from vlv.inference.bulk.worker import Alive, Failed, Free, work

# Seconds between two looks at the workers.
_TICK = 1


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    slot: int
    attempt: Attempt | None = None
    at: AtWork | None = None
    is_ready: bool = False  # its model is loaded
    silent: int = 0  # seconds without a sign of life
    stalled: int = 0  # seconds at the same images


class Supervisor:
    """Does tasks in worker processes, one for each of `devices`."""

    def __init__(
        self,
        job: Job,
        devices: list[str | None],
        threads: int,
        decoders: int,
        silence: float,
        stall: float,
    ) -> None:
        self._job = job
        self._devices = devices
        self._threads = threads
        self._decoders = decoders
        self._silence = silence
        self._stall = stall
        self._context = _context()
        self._workers: dict[Connection, _Worker] = {}
        self._again: deque[Attempt] = deque()
        self._deaths = 0

    def run(self, tasks: Iterator[Task], report: Callable[[int], None]) -> None:
        """Do all tasks; `report` is called with the number of images done since its last call.

        Raises:
            VLVError, OSError: a worker cannot go on.
            ChildProcessError: workers die with any task.
        """
        try:
            for slot in range(len(self._devices)):
                self._start(slot)
            tick = time.monotonic()
            while self._workers:
                ready = wait(list(self._workers), timeout=_TICK)
                if time.monotonic() - tick >= _TICK:
                    tick = time.monotonic()
                    self._watch()
                for connection in ready:
                    assert isinstance(connection, Connection)
                    report(self._answer(self._workers[connection], tasks))
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

    def _watch(self) -> None:
        """Kill workers that are stopped or hang; they are then replaced like any that die.

        Ticks are counted instead of time: none passes while the whole job is suspended.
        """
        for worker in self._workers.values():
            worker.silent += _TICK
            worker.stalled += _TICK
            what = None
            if worker.silent > self._silence:
                what = f"gave no sign of life for {self._silence:g} seconds"
            elif worker.stalled > self._stall and (worker.attempt or not worker.is_ready):
                what = f"made no progress for {self._stall:g} seconds"
            if what:
                print(f"vlv: worker {worker.slot} {what}; it is replaced", file=sys.stderr)
                worker.process.kill()
                worker.silent = worker.stalled = 0

    def _answer(self, worker: _Worker, tasks: Iterator[Task]) -> int:
        """Answer a worker's message, or replace the worker; returns the number of images done."""
        try:
            message = worker.connection.recv()
            worker.silent = 0
            if isinstance(message, Alive):
                return 0
            worker.stalled = 0
            if isinstance(message, AtWork):
                return self._goes_on(worker, message)
            if isinstance(message, Free):
                return self._free(worker, message, tasks)
        except (EOFError, ConnectionError):
            self._died(worker)
            return 0
        assert isinstance(message, Failed)
        raise message.error

    def _goes_on(self, worker: _Worker, at: AtWork) -> int:
        attempt = worker.attempt
        assert attempt is not None
        if attempt.reached(at) and worker.at is not None:
            self._deaths = 0
        worker.at = at
        worker.connection.send(None)
        done = max(0, at.first - attempt.reported)
        attempt.reported += done
        return done

    def _free(self, worker: _Worker, free: Free, tasks: Iterator[Task]) -> int:
        done = 0
        if free.done is not None:
            assert worker.attempt is not None
            done = max(0, free.done.total() - worker.attempt.reported)
            if worker.attempt.task.given_up is None:
                self._deaths = 0
        worker.is_ready = True
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
            worker.attempt.died(worker.at, f"with exit code {worker.process.exitcode}")
            self._again.append(worker.attempt)
        self._start(worker.slot)

    def _forget(self, worker: _Worker) -> None:
        del self._workers[worker.connection]
        worker.process.join()
        worker.connection.close()


def _context() -> ForkServerContext | SpawnContext:
    """On Linux, workers are forked from a process that has imported what they need, and share it:
    several start as fast as one, and one that died is replaced within a second. Elsewhere, forking
    with these libraries is not safe.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vlv.inference.bulk.captioning"])
    return context
