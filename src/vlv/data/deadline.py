"""One moment by which several steps must all be done."""

import time


class Deadline:
    """A moment some seconds from now."""

    def __init__(self, seconds: float) -> None:
        self._moment = time.monotonic() + seconds

    def left(self) -> float:
        """The seconds that remain, more than 0.

        Raises:
            TimeoutError: none do.
        """
        seconds = self._moment - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the deadline has passed")
        return seconds

    @property
    def passed(self) -> bool:
        """Whether the moment is over."""
        return time.monotonic() >= self._moment
