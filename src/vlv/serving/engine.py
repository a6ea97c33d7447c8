"""The worker process from outside: gives it jobs, hands their events out, and replaces it.

A job is kept here until it is done or nobody waits for it any more. A worker that dies costs time
alone: its successor is given every open job again, and a caption that was streaming goes on after
the last token that was told. Jobs during which two workers died are suspects, and are done one by
one with nothing beside them, so that one that kills workers takes no other with it. A worker that
does not get on is killed, and then replaced in the same way.
"""

import asyncio
import multiprocessing
import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from multiprocessing.connection import Connection

from vlv.serving.errors import ApiError
from vlv.serving.metrics import Metrics
from vlv.serving.telemetry import log
from vlv.serving.worker.jobs import (
    Cancel,
    CannotStart,
    CaptionJob,
    Command,
    Done,
    Event,
    Failed,
    Heartbeat,
    Info,
    Job,
    Ready,
    Result,
    Started,
    Submit,
    Tokens,
)
from vlv.serving.worker.process import WorkerSettings, work
from vlv.serving.worker.watchdog import SECONDS, Watchdog

# A job during which so many workers died is given up; it may be what kills them.
_ATTEMPTS = 4
_SUSPECT = 2
_LONGEST_PAUSE = 30.0


class Ticket:
    """One job: its events as they come. Close it when nobody waits any more."""

    def __init__(self, id: int, job: Job, close: Callable[[int], None]) -> None:
        self.id = id
        self.job = job
        self.started = False
        self.attempts = 0
        self.events: asyncio.Queue[Tokens | Done | Failed] = asyncio.Queue()
        self._close = close

    async def next(self) -> Tokens | Result:
        """The next piece of a streamed caption, or the result.

        Raises:
            ApiError: the job cannot be done.
        """
        event = await self.events.get()
        if isinstance(event, Failed):
            raise ApiError(event.status, event.code, event.message, event.param)
        return event.result if isinstance(event, Done) else event

    async def result(self) -> Result:
        """The result alone."""
        while isinstance(event := await self.next(), Tokens):
            pass
        return event

    def close(self) -> None:
        """Forget the job; what is left of it is not done."""
        self._close(self.id)


class Engine:
    """Owns the worker. `info` is None until one was ready; `reason` says why none answers now."""

    def __init__(self, settings: WorkerSettings, metrics: Metrics) -> None:
        self.info: Info | None = None
        self._starting: str | None = "the model is being loaded"
        self._watchdog = Watchdog(settings.stall_seconds)
        self.failure: str | None = None
        self._settings = settings
        self._metrics = metrics
        self._ids = count()
        self._open: dict[int, Ticket] = {}
        self._given: set[int] = set()  # of the open jobs, those that this worker has
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        metrics.waiting.set_function(lambda: sum(not one.started for one in self._open.values()))
        metrics.running.set_function(lambda: sum(one.started for one in self._open.values()))
        metrics.ready.set_function(lambda: float(self.reason is None))

    @property
    def reason(self) -> str | None:
        """Why no worker answers now; None if one does."""
        return self._starting or ("the worker does not answer" if self._watchdog.away else None)

    def submit(self, job: Job) -> Ticket:
        """Have a job done, by this worker or a later one."""
        ticket = Ticket(next(self._ids), job, self._forget)
        self._open[ticket.id] = ticket
        self._give()
        return ticket

    def _forget(self, id: int) -> None:
        if id in self._open:
            self._commands.put(Cancel(id))
            self._close(id)

    def _close(self, id: int) -> None:
        del self._open[id]
        self._given.discard(id)
        self._give()

    def _give(self) -> None:
        """Hand the worker every open job; while there are suspects, the first of them alone."""
        suspect = next((one for one in self._open.values() if one.attempts >= _SUSPECT), None)
        for ticket in self._open.values() if suspect is None else (suspect,):
            if ticket.id not in self._given:
                self._given.add(ticket.id)
                self._commands.put(Submit(ticket.id, ticket.job))

    async def run(self) -> None:
        """Keep a worker alive; ends when none can be started, and stops it when cancelled."""
        pause = 0.0
        while self.failure is None:
            await self._one_worker()
            if self.failure is None:
                # One that worked is replaced at once; one that could not start may need time.
                pause = 0.0 if self._starting is None else min(2 * pause + 1, _LONGEST_PAUSE)
                self._starting = "the worker died and is being replaced"
                self._metrics.restarts.inc()
                log("worker died")
                self._count_attempts()
                await asyncio.sleep(pause)

    async def _one_worker(self) -> None:
        """Start a worker with all open jobs, and take its events until it is gone."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(self._settings, theirs), daemon=True)
        await asyncio.to_thread(process.start)
        theirs.close()
        log("worker started", pid=process.pid)
        self._commands, self._given = queue.SimpleQueue(), set()
        for ticket in self._open.values():
            ticket.started = False
        self._give()
        self._watchdog = Watchdog(self._settings.stall_seconds)
        gone = asyncio.get_running_loop().create_future()
        threading.Thread(target=_send, args=(ours, self._commands), daemon=True).start()
        threading.Thread(
            target=_receive, args=(ours, asyncio.get_running_loop(), self._take, gone), daemon=True
        ).start()
        try:
            await self._watch(gone)
        finally:
            self._commands.put(None)
            process.kill()
            await gone
            process.join()
            process.close()

    async def _watch(self, gone: "asyncio.Future[None]") -> None:
        """Wait until a worker is gone or lost."""
        while not gone.done() and self._watchdog.lost is None:
            await asyncio.wait([gone], timeout=SECONDS)
            self._watchdog.tick()
        if not gone.done():
            log("worker lost", error=self._watchdog.lost)

    def _take(self, event: Event) -> None:
        if isinstance(event, Ready):
            self.info, self._starting, self._watchdog.ready = event.info, None, True
            log("ready")
        elif isinstance(event, Heartbeat):
            self._watchdog.heard(event)
        elif isinstance(event, CannotStart):
            log("worker cannot start", error=event.message)
            if self.info is None:
                self.failure = event.message
        elif ticket := self._open.get(event.id):
            self._tell(ticket, event)

    def _tell(self, ticket: Ticket, event: Started | Tokens | Done | Failed) -> None:
        if isinstance(event, Started):
            ticket.started = True
            return
        if isinstance(event, Tokens) and isinstance(ticket.job, CaptionJob):
            ticket.job = replace(ticket.job, written=ticket.job.written + event.ids)
        elif not isinstance(event, Tokens):
            self._close(ticket.id)
        ticket.events.put_nowait(event)

    def _count_attempts(self) -> None:
        for ticket in list(self._open.values()):
            ticket.attempts += ticket.started
            if ticket.attempts >= _ATTEMPTS:
                self._tell(
                    ticket,
                    Failed(ticket.id, 500, "worker_died", "The model failed on this request."),
                )


def _send(pipe: Connection, commands: "queue.SimpleQueue[Command | None]") -> None:
    """In a thread: the pipe takes a command only as fast as the worker reads."""
    while (command := commands.get()) is not None:
        try:
            pipe.send(command)
        except OSError:
            return


def _receive(
    pipe: Connection,
    loop: asyncio.AbstractEventLoop,
    take: Callable[[Event], None],
    gone: "asyncio.Future[None]",
) -> None:
    """In a thread: events, until the worker is gone."""
    try:
        while True:
            loop.call_soon_threadsafe(take, pipe.recv())
    except (EOFError, OSError):
        pass
    pipe.close()
    loop.call_soon_threadsafe(_settle, gone)


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
