"""Requests to stop: signals, seen between micro-batches, and agreed on by all processes of a run.

A cluster sends SIGTERM or SIGUSR1 before it takes a machine away, perhaps to one process only. The
step in progress is given up: it has changed nothing but gradients, and is computed again when the
run is resumed.
"""

import os
import signal
import threading
import time
from types import FrameType

from vlv.training.processes import Processes

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# A launcher passes a Ctrl-C on that the terminal has already sent to all processes.
_SAME_PRESS = 1.0


class StopRequested(Exception):
    """A signal asked a process of the run to stop; `name` is the signal's."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Preemption:
    """Inside, signals are noted, and `check` raises where one came to any process.

    A first Ctrl-C is such a signal too; a second one ends this process at once.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._received = 0
        self._interrupted_at: float | None = None

    def __enter__(self) -> "Preemption":
        # Only the main thread may listen: elsewhere a run ends as its program does.
        listens = threading.current_thread() is threading.main_thread()
        numbers = _SIGNALS if listens else ()
        self._previous = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises StopRequested, in all processes or in none. All have to call."""
        received = self._processes.largest(self._received)
        if received:
            raise StopRequested(signal.Signals(received).name)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._received = number
        if number == signal.SIGINT:
            self._note_interrupt()

    def _note_interrupt(self) -> None:
        now = time.monotonic()
        if self._interrupted_at is None:
            self._interrupted_at = now
            _say("stopping after this micro-batch, with a checkpoint; Ctrl-C again stops at once")
        elif now - self._interrupted_at > _SAME_PRESS:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)


def _say(sentence: str) -> None:
    # A handler may interrupt another write to standard error, which cannot be entered twice.
    os.write(2, f"\nvlv: {sentence}\n".encode())


def leave_signals_to_the_run(_worker: int = 0) -> None:
    """In a process that loads batches: signals that are sent to all processes of a run at once, by
    Ctrl-C or a cluster, do not end it while the run still needs it. The run itself ends it.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_run_says_so, daemon=True).start()


def _end_when_the_run_says_so() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
