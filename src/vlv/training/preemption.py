"""Requests to stop: signals, seen between micro-batches, and agreed on by all processes of a run.

A cluster sends SIGTERM or SIGUSR1 before it takes a machine away, perhaps to one process only. The
step in progress is given up: it has changed nothing but gradients, and is computed again when the
run is resumed.
"""

import os
import signal
import threading
import time
from datetime import timedelta
from types import FrameType

import torch
import torch.distributed

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# A launcher passes a Ctrl-C on that the terminal has already sent to all processes.
_SAME_PRESS = 1.0
# The first process may validate for hours; heartbeats (heartbeat.py) find those that hang.
_TIMEOUT = timedelta(days=7)


class StopRequested(Exception):
    """A signal asked a process of the run to stop; `name` is the signal's."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Agreement:
    """Decisions that all processes of a run have to take together. They are made on the CPU, so
    that no process waits for a GPU.
    """

    def __init__(self, processes: int) -> None:
        self._group = None
        if processes > 1:
            self._group = torch.distributed.new_group(backend="gloo", timeout=_TIMEOUT)

    def largest(self, number: int) -> int:
        """The largest of what the processes say. All have to call."""
        if self._group is None:
            return number
        said = torch.tensor(number)
        torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MAX, group=self._group)
        return int(said)

    def anyone(self, wish: bool) -> bool:
        """Whether any process wishes it. All have to call."""
        return bool(self.largest(int(wish)))


class Preemption:
    """Inside, signals are noted, and `check` raises where one came to any process.

    A first Ctrl-C is such a signal too; a second one ends this process at once.
    """

    def __init__(self, agreement: Agreement) -> None:
        self._agreement = agreement
        self._received = 0
        self._interrupted_at: float | None = None

    def __enter__(self) -> "Preemption":
        self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises StopRequested, in all processes or in none. All have to call."""
        received = self._agreement.largest(self._received)
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
