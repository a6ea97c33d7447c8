"""How far long work is: a bar on a terminal, and a line a minute elsewhere, as in a job's log.

Knows nothing of the work.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from vlv.text import counted

if TYPE_CHECKING:
    _Bar = tqdm[Any]
else:
    _Bar = tqdm

SECONDS_BETWEEN_LINES = 60.0


class ProgressBar(_Bar):
    """A bar on standard error after two seconds, of `items` or moved by hand.

    say: receives the lines, where standard error is no terminal.
    """

    def __init__(
        self,
        items: Iterable[Any] | None = None,
        *,
        total: int | None = None,
        initial: int = 0,
        unit: str,
        description: str,
        say: Callable[[str], object],
    ) -> None:
        super().__init__(
            items,
            total=total,
            initial=initial,
            unit=f" {unit}",
            desc=description,
            delay=2,
            disable=None,
            file=sys.stderr,
            dynamic_ncols=True,
        )
        self._by_lines = bool(self.disable)
        self._noun, self._about, self._say = unit, description, say
        self._before, self._began = initial, time.monotonic()
        self._said = self._began

    def __iter__(self) -> Iterator[Any]:
        if not self._by_lines:
            yield from super().__iter__()
            return
        for item in self.iterable:
            yield item
            self.update()

    def update(self, n: float | None = 1) -> bool | None:
        """Say that `n` more are done."""
        if not self._by_lines:
            return super().update(n)
        self.n += n or 0
        if time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            self._say(self._line())
        return None

    def _line(self) -> str:
        """As "writing: 1,200 of 5,000 images, 3.2 a second"."""
        rate, each = (self.n - self._before) / (self._said - self._began), "second"
        if rate < 1:
            rate, each = 60 * rate, "minute"
        done = counted(int(self.n), self._noun)
        if self.total is not None:
            done = f"{int(self.n):,} of {counted(int(self.total), self._noun)}"
        about = f"{self._about}: " if self._about else ""
        return f"{about}{done}, {rate:,.1f} a {each}"
