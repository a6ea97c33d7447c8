"""Liveness of the worker process, by its heartbeats.

A thread of the worker sends a heartbeat once a second, so that one forward pass, or the loading of
a model, may take long. A stopped process is recognised by missing heartbeats, a stuck one by work
without progress. Each layer of a network that begins and each pass that ends is progress: a pass
of a large model on a slow machine may take many minutes, so no time limit fits it, but one of its
layers takes only a small share of that.
"""

import threading
from collections.abc import Callable
from contextlib import suppress

from vlv.serving.worker.jobs import Heartbeat

INTERVAL_SECONDS = 1.0
# Missed heartbeats after which a worker counts as unresponsive, and after which it is replaced.
# While a model is loaded, a library that is read from a slow disk may block all threads.
_UNRESPONSIVE = 4
_FAILED = 15
_FAILED_LOADING = 120


class Watchdog:
    """Judges one worker, which is `ready` when it has its model.

    `tick` is called once a second of this process: where both processes were stopped, the worker is
    not blamed for the time.
    """

    def __init__(self, stall_seconds: float) -> None:
        self.ready = False
        self._stall_seconds = stall_seconds
        self._missed = 0
        self._stalled = 0.0
        self._steps = -1

    def record(self, heartbeat: Heartbeat) -> None:
        """Record that a heartbeat arrived."""
        self._missed = 0
        if heartbeat.steps != self._steps or not heartbeat.busy:
            self._steps, self._stalled = heartbeat.steps, 0.0

    def tick(self) -> None:
        """Record that a second has passed."""
        self._missed += 1
        self._stalled += INTERVAL_SECONDS

    @property
    def unresponsive(self) -> bool:
        """Whether the worker does not respond now."""
        return self._missed >= _UNRESPONSIVE

    @property
    def failure(self) -> str | None:
        """Why the worker must be replaced; None if it need not be."""
        if self._missed >= (_FAILED if self.ready else _FAILED_LOADING):
            return f"no heartbeat arrived for {self._missed * INTERVAL_SECONDS:g} s"
        if self.ready and self._stalled >= self._stall_seconds:
            return f"one step has taken more than {self._stall_seconds:g} s"
        return None


class HeartbeatSender:
    """In the worker: sends heartbeats from a thread until `report` fails.

    `busy` is false while a model is loaded. `failing` says whether the engine of the language model
    fails.
    """

    def __init__(self, report: Callable[[Heartbeat], None]) -> None:
        self.steps = 0
        self.busy = False
        self.failing: Callable[[], bool] = lambda: False
        self._report = report
        threading.Thread(target=self._run, daemon=True).start()

    def step(self) -> None:
        """Record progress of the work."""
        self.steps += 1

    def _run(self) -> None:
        pause = threading.Event()
        with suppress(OSError):  # the other end of the pipe is closed: the worker ends too
            while not pause.wait(INTERVAL_SECONDS):
                self._report(Heartbeat(self.steps, self.busy, self.failing()))
