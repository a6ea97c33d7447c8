"""How many requests are in the house at once, and for how long each may stay."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from vlv.serving.errors import ApiError
from vlv.serving.metrics import Metrics

T = TypeVar("T")


class Slot:
    """A place in the house, to be freed once; `until` is its deadline on the loop's clock."""

    def __init__(self, admission: "Admission", until: float) -> None:
        self._admission = admission
        self.until = until

    async def within(self, work: Awaitable[T]) -> T:
        """The result of the work.

        Raises:
            ApiError: 504, it was cancelled at the deadline.
        """
        try:
            async with asyncio.timeout_at(self.until):
                return await work
        except TimeoutError as error:
            raise ApiError(
                504,
                "deadline_exceeded",
                f"The answer took longer than the {self._admission.seconds:g} s that a request "
                "may take; ask for less, or try again later.",
            ) from error

    def free(self) -> None:
        """Give the place to somebody else."""
        self._admission.used -= 1


class Admission:
    """Gives `limit` slots, before anything is done for a request, and refuses at once beyond."""

    def __init__(self, limit: int, seconds: float, metrics: Metrics) -> None:
        self.limit = limit
        self.seconds = seconds
        self.used = 0
        self.draining = False
        self._metrics = metrics
        metrics.slots.set(limit)
        metrics.slots_used.set_function(lambda: self.used)

    def check(self) -> None:
        """Count a refusal, and say it, where there is no slot.

        Raises:
            ApiError: 429, all are taken; 503, the server is stopping.
        """
        if self.draining:
            self._metrics.refused.labels("draining").inc()
            raise ApiError(503, "draining", "This server is stopping; ask another one.")
        if self.used >= self.limit:
            self._metrics.refused.labels("queue_full").inc()
            raise ApiError(429, "queue_full", "The queue is full; try again in a moment.")

    def take(self) -> Slot:
        """A slot for one request, which `check` let in without a pause since."""
        self.used += 1
        self._metrics.accepted.inc()
        return Slot(self, asyncio.get_running_loop().time() + self.seconds)
