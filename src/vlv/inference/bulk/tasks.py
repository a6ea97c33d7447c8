"""What a worker is given to do, and what the deaths of workers say about its images.

If the same group of images was at work at two deaths, each of its images is tried alone next time;
an image that then kills its worker twice is refused as "crashed".
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal

from vlv.inference.bulk.plan import Shard
from vlv.inference.written import Replace

# How many workers may die in a row without a new image being done.
MAX_DEATHS = 10
# How many workers may die on one shard without reaching a new image; then it is given up. An image
# that kills its worker takes four: two in its group and two alone.
MAX_DEATHS_OF_A_SHARD = 5


@dataclass(frozen=True)
class Task:
    """A shard to do, and what earlier attempts found out about it.

    again: None if the shard was not done before. Otherwise only some of its images are done again:
    those that lost their caption files and those that failed ("failed"), or of the failed ones
    only those that have changed since ("changed").
    replace: which caption files may be replaced.
    given_up: how workers died on this shard, which is then not read again.
    crashed: places of images that killed a worker.
    suspects: first places of groups that killed a worker; each of their images is tried alone
    first.
    """

    shard: Shard
    again: Literal["failed", "changed"] | None = None
    replace: Replace = Replace.OURS
    given_up: str | None = None
    crashed: frozenset[int] = frozenset()
    suspects: frozenset[int] = frozenset()


@dataclass(frozen=True)
class AtWork:
    """A worker will caption `count` images of its shard, from place `first` on."""

    first: int
    count: int


@dataclass
class Attempt:
    """A task and its progress."""

    task: Task
    deaths: Counter[tuple[int, int]] = field(default_factory=Counter)
    reported: int = 0  # images that were reported as done
    furthest: int = -1  # the last place that was reached
    in_vain: int = 0  # deaths since a new image was reached

    def reached(self, at: AtWork) -> bool:
        """Record what is worked on; whether no attempt came so far before."""
        if at.first <= self.furthest:
            return False
        self.furthest, self.in_vain = at.first, 0
        return True

    def died(self, at: AtWork | None, how: str) -> None:
        """Record the death of a worker at some images, or before any."""
        if at is not None:
            self._conclude(at)
        self.in_vain += 1
        if self.in_vain >= MAX_DEATHS_OF_A_SHARD:
            self.task = replace(self.task, given_up=how)

    def _conclude(self, at: AtWork) -> None:
        self.deaths[at.first, at.count] += 1
        if self.deaths[at.first, at.count] < 2:
            return
        here = frozenset([at.first])
        if at.count == 1:
            self.task = replace(self.task, crashed=self.task.crashed | here)
        else:
            self.task = replace(self.task, suspects=self.task.suspects | here)


def too_many_deaths(how: str) -> ChildProcessError:
    """The error for workers that die whatever they are given; `how` the last of them ended."""
    return ChildProcessError(
        f"{MAX_DEATHS} worker processes died one after another (the last {how}); see the messages "
        "before this one, and whether memory runs out. What is done is kept"
    )
