"""Heartbeats: of several processes that share a run, one that hangs is named, and the others end.

A process waits for the others in every step. If one of them hangs, the rest would wait for as long
as the backend allows, and could not say for whom. So a thread in each process tells the others, by
a store of its own, that the process lives and how far its training has come. A thread that has seen
no progress of another process for `patience` seconds names it and ends its own process. It works
alike with gloo and NCCL, and a run of one process needs none of it.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

from vlv.training.processes import Processes

_LONGEST_INTERVAL = 5.0
# Rounds for which a process that has named another stays: the others should name it as well,
# rather than report that this one has left.
_LAST_ROUNDS = 3


@dataclass(frozen=True)
class Beat:
    """What a process says of itself."""

    rank: int
    host: str
    pid: int
    tick: int = 0
    """Grows as long as the process lives."""
    progress: int = 0
    """Grows with its training; the same at the same place in all processes."""
    doing: str = "start"
    busy: bool = True
    """Whether that may take any time, such as validation."""
    done: bool = False

    def describe(self) -> str:
        """Which process it is, and what it did last."""
        return f"rank {self.rank} (host {self.host}, pid {self.pid}; last: {self.doing})"


class Observations:
    """What one process has seen of all, and when. Times are seconds of one clock."""

    def __init__(self, mine: int, beats: list[Beat], now: float) -> None:
        self._mine = mine
        self._beats = beats
        self._alive = [now] * len(beats)
        self._progress = self._round = self._judged = now

    def see(self, beats: list[Beat], now: float) -> None:
        """Another round of beats."""
        for rank, (before, beat) in enumerate(zip(self._beats, beats, strict=True)):
            if beat.tick != before.tick:
                self._alive[rank] = now
            if beat.progress != before.progress or beat.busy:
                self._progress = now
        self._beats, self._round = beats, now

    def hung(self, patience: float, now: float) -> list[Beat]:
        """The processes that are to blame if there was no life or no progress for `patience`
        seconds; none otherwise.
        """
        paused = now - self._judged > patience / 2
        self._judged = now
        if paused:
            # This process itself stood still, and has seen nothing meanwhile.
            self._alive = [now] * len(self._beats)
            self._progress = self._round = now
            return []
        if self._mine != 0 and now - self._round > patience:
            return self._beats[:1]  # which keeps the store
        present = [beat for beat in self._beats if not beat.done]
        # As of the last round: where the store answers no more, nothing is heard of the others.
        seen = self._round
        silent = [
            b for b in present if b.rank != self._mine and seen - self._alive[b.rank] > patience
        ]
        if silent:
            return silent
        if present and seen - self._progress > patience:
            # The others wait for those that are furthest behind.
            behind = min(beat.progress for beat in present)
            return [beat for beat in present if beat.progress == behind]
        return []


class Heartbeat:
    """Tells the other processes of a run how far this one is, and watches them.

    All processes make one together. `progress`, `busy` and `stop` do nothing in a run of one.
    """

    def __init__(self, processes: Processes, patience: float, advice: str) -> None:
        """patience: seconds. advice: what to do when a process hangs, as the end of a sentence."""
        self._beat = Beat(processes.rank, socket.gethostname(), os.getpid())
        self._count = processes.count
        self._patience = patience
        self._interval = min(patience / 10, _LONGEST_INTERVAL)
        self._advice = advice
        self._first_step: int | None = None
        self._stopped = threading.Event()
        self._exchanging: threading.Thread | None = None
        if processes.together:
            self._start(processes)

    def progress(self, step: int, micro_batch: int) -> None:
        """A micro-batch begins. The first step that a process makes may take any time: it compiles,
        and fills caches.
        """
        if self._first_step is None:
            self._first_step = step
        self._beat = replace(
            self._beat,
            progress=self._beat.progress + 1,
            doing=f"step {step + 1}, micro-batch {micro_batch + 1}",
            busy=step == self._first_step,
        )

    @contextmanager
    def busy(self, doing: str) -> Iterator[None]:
        """Inside is what may take any time."""
        before = self._beat
        self._beat = replace(before, doing=doing, busy=True)
        try:
            yield
        finally:
            # That it ended is progress of this process, not a place that the others pass as well.
            self._beat = before

    def stop(self) -> None:
        """From now on, this process has no more to do with the others."""
        self._stopped.set()
        if self._exchanging is not None:
            # Where the store does not answer, neither does this thread.
            self._exchanging.join(2 * self._interval)

    def _start(self, processes: Processes) -> None:
        self._store = _shared_store(processes)
        self._publish(self._beat)
        processes.largest(0)  # all have published
        self._observations = Observations(self._beat.rank, self._read(), time.monotonic())
        self._exchanging = threading.Thread(target=self._exchange, daemon=True)
        self._exchanging.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def _publish(self, beat: Beat) -> None:
        self._store.set(str(beat.rank), json.dumps(asdict(beat)))

    def _read(self) -> list[Beat]:
        said = self._store.multi_get([str(rank) for rank in range(self._count)])
        return [Beat(**json.loads(beat)) for beat in said]

    def _exchange(self) -> None:
        """Tell and hear, until the store is gone or answers no more: `_watch` sees that."""
        tick = 0
        try:
            while not self._stopped.wait(self._interval):
                tick += 1
                self._publish(replace(self._beat, tick=tick))
                self._observations.see(self._read(), time.monotonic())
            self._publish(replace(self._beat, done=True))
        except DistError:
            return

    def _watch(self) -> None:
        while not self._stopped.wait(self._interval):
            hung = self._observations.hung(self._patience, time.monotonic())
            if hung:
                self._end(hung)

    def _end(self, hung: list[Beat]) -> None:
        names = " and ".join(beat.describe() for beat in hung)
        sentence = (
            f"vlv: no sign of progress for {self._patience:g} s from {names}; "
            f"rank {self._beat.rank} ends: {self._advice}\n"
        )
        os.write(2, sentence.encode())
        self._stopped.wait(_LAST_ROUNDS * self._interval)
        # The main thread waits inside of a library, where no exception reaches it.
        os._exit(1)


def _shared_store(processes: Processes) -> TCPStore:
    """A store at the first process, apart from the one in which the process group waits."""
    host = os.environ["MASTER_ADDR"]
    if processes.first:
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        processes.largest(store.port)
        return store
    return TCPStore(host, processes.largest(0), wait_for_workers=False)
