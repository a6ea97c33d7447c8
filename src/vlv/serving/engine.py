"""The worker process as the server sees it: submits jobs, delivers events, replaces dead workers.

A job is kept here until it is done or cancelled. A worker that dies costs only time: its successor
gets every open job again, and a streamed caption continues after the last token that was reported.
Jobs during which two workers died are suspects. They run one by one with nothing beside them, so
that a job that kills workers takes no other with it. A worker that makes no progress is killed and
replaced in the same way.
"""

import asyncio
import multiprocessing
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from vlv.errors import VLVError
from vlv.serving.errors import ApiError
from vlv.serving.settings import WorkerSettings
from vlv.serving.telemetry import Metrics, log, log_error
from vlv.serving.worker.jobs import (
    Cancel,
    CannotStart,
    CaptionJob,
    Command,
    Done,
    Event,
    Failed,
    Heartbeat,
    Job,
    ModelInfo,
    Ready,
    Result,
    Started,
    Step,
    Submit,
    Tokens,
)
from vlv.serving.worker.process import run_worker
from vlv.serving.worker.watchdog import INTERVAL_SECONDS, Watchdog

# A job during which so many workers died is given up; it may be the cause.
_MAX_ATTEMPTS = 4
_SUSPECT_ATTEMPTS = 2
_MAX_PAUSE_SECONDS = 30.0
# How long a worker may take to end by itself.
_END_SECONDS = 2.0


class JobHandle:
    """One job and its events as they arrive. Close it when nobody waits for the job any more."""

    def __init__(self, id: int, job: Job, close: Callable[[int], None]) -> None:
        self.id = id
        self.job = job
        self.started = False
        self.attempts = 0
        self.events: asyncio.Queue[Tokens | Step | Done | Failed] = asyncio.Queue()
        self._close = close

    async def next(self) -> Tokens | Step | Result:
        """The next piece of a streamed caption, the next step of an image, or the result.

        Raises:
            ApiError: the job cannot be done.
        """
        event = await self.events.get()
        if isinstance(event, Failed):
            raise ApiError(event.status, event.code, event.message, event.param)
        return event.result if isinstance(event, Done) else event

    async def result(self) -> Result:
        """The result, without the pieces before it."""
        while isinstance(event := await self.next(), Tokens | Step):
            pass
        return event

    def close(self) -> None:
        """Cancel the job if it is not done."""
        self._close(self.id)


class Engine:
    """Owns the worker.

    `info` is None until the first worker is ready; `reason` says why requests fail or wait now;
    `failure` says why no worker can be started.
    """

    def __init__(self, settings: WorkerSettings, metrics: Metrics) -> None:
        self.info: ModelInfo | None = None
        self.failure: VLVError | None = None
        self._starting: str | None = "the model is being loaded"
        self._captions_fail = False
        self._watchdog = Watchdog(settings.stall_seconds)
        self._settings = settings
        self._metrics = metrics
        self._ids = count()
        self._open: dict[int, JobHandle] = {}
        self._submitted: set[int] = set()  # ids of the open jobs that this worker has
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        metrics.waiting.set_function(lambda: sum(not one.started for one in self._open.values()))
        metrics.running.set_function(lambda: sum(one.started for one in self._open.values()))
        metrics.ready.set_function(lambda: float(self.reason is None))

    @property
    def reason(self) -> str | None:
        """Why no worker responds now, or why it writes no captions; None if it does both."""
        if self._starting is None and self._watchdog.unresponsive:
            return "the worker does not answer"
        if self._starting is None and self._captions_fail:
            return "the language model's server fails"
        return self._starting

    def submit(self, job: Job) -> JobHandle:
        """Have a job done, by this worker or a later one."""
        handle = JobHandle(next(self._ids), job, self._cancel)
        self._open[handle.id] = handle
        self._submit_open_jobs()
        return handle

    def _cancel(self, id: int) -> None:
        if id in self._open:
            self._commands.put(Cancel(id))
            self._remove(id)

    def _remove(self, id: int) -> None:
        del self._open[id]
        self._submitted.discard(id)
        self._submit_open_jobs()

    def _submit_open_jobs(self) -> None:
        """Send every open job to the worker; if there are suspects, only the first of them."""
        suspect = next(
            (one for one in self._open.values() if one.attempts >= _SUSPECT_ATTEMPTS), None
        )
        for handle in self._open.values() if suspect is None else (suspect,):
            if handle.id not in self._submitted:
                self._submitted.add(handle.id)
                self._commands.put(Submit(handle.id, handle.job))

    async def run(self) -> None:
        """Keep a worker alive; returns when none can be started. Cancellation stops the worker."""
        pause = 0.0
        while self.failure is None:
            await self._run_worker()
            if self.failure is None:
                # One that worked is replaced at once; one that could not start may need time.
                pause = 0.0 if self._starting is None else min(2 * pause + 1, _MAX_PAUSE_SECONDS)
                self._starting = "the worker died and is being replaced"
                self._metrics.restarts.inc()
                log_error("worker died")
                self._count_attempts()
                await asyncio.sleep(pause)

    async def _run_worker(self) -> None:
        """Start a worker with all open jobs, and handle its events until it ends."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        # vLLM has processes of its own, which a daemon may not have.
        daemon = self._settings.engine != "vllm"
        process = context.Process(target=run_worker, args=(self._settings, theirs), daemon=daemon)
        await _started(process)
        theirs.close()
        log("worker started", pid=process.pid)
        self._commands, self._submitted = queue.SimpleQueue(), set()
        for handle in self._open.values():
            handle.started = False
        self._submit_open_jobs()
        self._watchdog, self._captions_fail = Watchdog(self._settings.stall_seconds), False
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        threading.Thread(target=_send, args=(ours, self._commands), daemon=True).start()
        threading.Thread(
            target=_receive, args=(ours, loop, self._handle_event, ended), daemon=True
        ).start()
        try:
            await self._watch(ended)
        finally:
            self._commands.put(None)
            # A worker that is killed leaves what it has registered with the system to others.
            await asyncio.to_thread(process.join, _END_SECONDS)
            process.kill()
            await ended
            process.join()
            process.close()

    async def _watch(self, ended: "asyncio.Future[None]") -> None:
        """Wait until a worker has ended or must be replaced."""
        while not ended.done() and self._watchdog.failure is None:
            await asyncio.wait([ended], timeout=INTERVAL_SECONDS)
            self._watchdog.tick()
        if not ended.done():
            log_error("worker lost", error=self._watchdog.failure)

    def _handle_event(self, event: Event) -> None:
        if isinstance(event, Ready):
            self.info, self._starting, self._watchdog.ready = event.info, None, True
            log("ready")
        elif isinstance(event, Heartbeat):
            self._watchdog.record(event)
            self._captions_fail = event.failing
        elif isinstance(event, CannotStart):
            log_error("worker cannot start", error=str(event.error))
            if self.info is None:
                self.failure = event.error
        elif handle := self._open.get(event.id):
            self._deliver(handle, event)

    def _deliver(self, handle: JobHandle, event: Started | Tokens | Step | Done | Failed) -> None:
        if isinstance(event, Started):
            handle.started = True
            return
        if isinstance(event, Tokens) and isinstance(handle.job, CaptionJob):
            handle.job = replace(handle.job, written=handle.job.written + event.ids)
        elif not isinstance(event, Tokens | Step):
            self._remove(handle.id)
        handle.events.put_nowait(event)

    def _count_attempts(self) -> None:
        """Count the death of a worker for the jobs that it had started."""
        for handle in list(self._open.values()):
            handle.attempts += handle.started
            if handle.attempts >= _MAX_ATTEMPTS:
                message = "The model failed on this request."
                self._deliver(handle, Failed(handle.id, 500, "worker_died", message))


async def _started(process: BaseProcess) -> None:
    """Start a process. If that is cancelled, the process ends too: it ignores the signal that the
    interpreter would send to it at its own end, and would be waited for without end.
    """
    starting = asyncio.ensure_future(asyncio.to_thread(process.start))
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        await starting
        process.kill()
        process.join()
        raise


def _send(pipe: Connection, commands: "queue.SimpleQueue[Command | None]") -> None:
    """In a thread: send commands, as fast as the worker reads them. None, the last one, ends it."""
    with suppress(OSError):
        while (command := commands.get()) is not None:
            pipe.send(command)
        pipe.send(None)


def _receive(
    pipe: Connection,
    loop: asyncio.AbstractEventLoop,
    handle_event: Callable[[Event], None],
    ended: "asyncio.Future[None]",
) -> None:
    """In a thread: receive events until the worker ends."""
    try:
        while True:
            loop.call_soon_threadsafe(handle_event, pipe.recv())
    except (EOFError, OSError):
        pass
    pipe.close()
    loop.call_soon_threadsafe(_set_ended, ended)


def _set_ended(ended: "asyncio.Future[None]") -> None:
    if not ended.done():
        ended.set_result(None)
