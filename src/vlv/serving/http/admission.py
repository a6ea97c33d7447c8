"""How many requests are accepted at once, how many bytes their bodies may take, and for how long
each may stay.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

from vlv.serving.errors import ApiError
from vlv.serving.metrics import Metrics

T = TypeVar("T")


class Slot:
    """A place in the house, to be freed once; `until` is its deadline on the loop's clock."""

    def __init__(self, admission: "Admission", until: float) -> None:
        self._admission = admission
        self._size = 0
        self._limit: asyncio.Timeout | None = None
        self.until = until

    async def within(self, work: Awaitable[T]) -> T:
        """The result of the work.

        Raises:
            ApiError: 504, it was cancelled at the deadline; 503, at the end of the server.
        """
        late = ApiError(
            504,
            "deadline_exceeded",
            f"The answer took longer than the {self._admission.seconds:g} s that a request "
            "may take; ask for less, or try again later.",
        )
        async with self.deadline(self.until, late):
            return await work

    @asynccontextmanager
    async def deadline(self, when: float, late: ApiError) -> AsyncIterator[asyncio.Timeout]:
        """What is done within is cancelled then, or at the end of the server.

        Raises:
            ApiError: `late`, or 503 at the end of the server.
        """
        try:
            async with asyncio.timeout_at(when) as self._limit:
                yield self._limit
        except TimeoutError as error:
            raise (_cut_off() if self._admission.ended else late) from error
        finally:
            self._limit = None

    def reserve(self, size: int) -> None:
        """Room for so many bytes more of its body, which have come.

        Raises:
            ApiError: 429, there is none.
        """
        self._admission.check_room(size)
        self._admission.bytes_used += size
        self._size += size

    def end(self) -> None:
        """The deadline is now."""
        self.until = asyncio.get_running_loop().time()
        if self._limit is not None:
            with contextlib.suppress(RuntimeError):  # it has come already
                self._limit.reschedule(self.until)

    def free(self) -> None:
        """Give the place to somebody else."""
        self._admission.slots.discard(self)
        self._admission.bytes_used -= self._size


class Admission:
    """Gives `limit` slots, before anything is done for a request, and refuses at once beyond.

    Bodies of all slots together have at most `max_bytes`. What counts is what has come of them: a
    body that comes slowly takes no room that others could have.
    """

    def __init__(self, limit: int, seconds: float, max_bytes: int, metrics: Metrics) -> None:
        self.limit = limit
        self.seconds = seconds
        self.slots: set[Slot] = set()
        self.bytes_used = 0
        self.draining = False
        self.ended = False
        self._max_bytes = max_bytes
        self._metrics = metrics
        metrics.slots.set(limit)
        metrics.slots_used.set_function(lambda: self.used)

    @property
    def used(self) -> int:
        """How many slots are taken."""
        return len(self.slots)

    def take(self, size: int) -> Slot:
        """A slot for a request whose body is to have `size` bytes, as far as is known.

        Raises:
            ApiError: 429, all are taken, or there is no room for the body now; 503, the server is
                stopping.
        """
        if self.draining:
            self._metrics.refused.labels("draining").inc()
            raise ApiError(503, "draining", "This server is stopping; ask another one.")
        if self.used >= self.limit:
            self._metrics.refused.labels("queue_full").inc()
            raise ApiError(429, "queue_full", "The queue is full; try again in a moment.")
        self.check_room(size)
        slot = Slot(self, asyncio.get_running_loop().time() + self.seconds)
        self.slots.add(slot)
        self._metrics.accepted.inc()
        return slot

    def check_room(self, size: int) -> None:
        """Raise ApiError, 429, if the bodies leave no room for so many bytes more."""
        if self.bytes_used + size > self._max_bytes:
            self._metrics.refused.labels("bodies_full").inc()
            raise ApiError(
                429,
                "queue_full",
                "The server holds too many large requests; try again in a moment.",
            )

    def end(self) -> None:
        """Answer 503 to all that have a slot."""
        self.ended = True
        for slot in self.slots:
            slot.end()


def _cut_off() -> ApiError:
    return ApiError(
        503, "draining", "The server stopped before this was done; ask again, or another one."
    )
