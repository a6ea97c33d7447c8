"""Whether a worker still gets on, by its heartbeats.

A heartbeat comes once a second from a thread of the worker of its own, so that one pass through a
network, or the loading of a model, may take long: a process that is stopped is told by its silence,
one that is stuck by work that does not go on. Work goes on with each layer of a network that begins
and with each pass that ends: a pass of a large model on a slow machine may take many minutes, and
no time is long for it, whereas one of its layers takes a small share of that.
"""

import threading
from collections.abc import Callable
from contextlib import suppress

from vlv.serving.worker.jobs import Heartbeat

SECONDS = 1.0
# Heartbeats that are missed until a worker counts as away, and until it is given up; while a model
# is loaded, a library that is read from a slow disk may hold up all threads.
_AWAY = 4
_LOST = 15
_LOST_LOADING = 120


class Watchdog:
    """Judges one worker, which is `ready` when it has its model.

    `tick` comes once a second of this process: where both were stopped, the worker is not blamed
    for the time.
    """

    def __init__(self, stall_seconds: float) -> None:
        self.ready = False
        self._stall_seconds = stall_seconds
        self._silent = 0
        self._stuck = 0.0
        self._steps = -1

    def heard(self, beat: Heartbeat) -> None:
        """A heartbeat came."""
        self._silent = 0
        if beat.steps != self._steps or not beat.busy:
            self._steps, self._stuck = beat.steps, 0.0

    def tick(self) -> None:
        """A second has passed."""
        self._silent += 1
        self._stuck += SECONDS

    @property
    def away(self) -> bool:
        """Whether the worker does not answer now."""
        return self._silent >= _AWAY

    @property
    def lost(self) -> str | None:
        """Why the worker is to be replaced; None while it is not."""
        if self._silent >= (_LOST if self.ready else _LOST_LOADING):
            return f"it has been silent for {self._silent * SECONDS:g} s"
        if self.ready and self._stuck >= self._stall_seconds:
            return f"one step has taken more than {self._stall_seconds:g} s"
        return None


class Pulse:
    """In the worker: tells heartbeats until `tell` fails. While a model is loaded nothing is to be
    done yet.
    """

    def __init__(self, tell: Callable[[Heartbeat], None]) -> None:
        self.steps = 0
        self.busy = False
        self._tell = tell
        threading.Thread(target=self._run, daemon=True).start()

    def step(self) -> None:
        """The work has come a step further."""
        self.steps += 1

    def _run(self) -> None:
        pause = threading.Event()
        with suppress(OSError):  # the other end of the pipe is closed: the worker ends too
            while not pause.wait(SECONDS):
                self._tell(Heartbeat(self.steps, self.busy))
