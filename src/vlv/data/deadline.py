"""A deadline for several steps, shared by fetching and decoding."""

import time


class Deadline:
    """A moment `seconds` from now."""

    def __init__(self, seconds: float) -> None:
        self._moment = time.monotonic() + seconds

    def left(self) -> float:
        """The seconds that remain, more than 0.

        Raises:
            TimeoutError: the deadline has passed.
        """
        seconds = self._moment - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the deadline has passed")
        return seconds

    @property
    def passed(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self._moment
