"""What the deaths of workers say of the images that they were at work on.

Where the same group of images was at work twice, each of them is tried alone the next time; one
that then kills its worker twice is left out as "crashed". Knows nothing of processes and models.
"""

from collections import Counter
from dataclasses import dataclass, field, replace

from vlv.inference.bulk.captioning import Task
from vlv.inference.bulk.worker import AtWork

# Workers that may die one after another without any image being done that was not done before.
MAX_DEATHS = 10
# Workers that may die on one shard without any new image being come to; then the shard is given up.
# An image that kills its worker takes four: two in its group and two alone.
MAX_DEATHS_OF_A_SHARD = 5


@dataclass
class Attempt:
    """A task, and what became of it so far."""

    task: Task
    deaths: Counter[tuple[int, int]] = field(default_factory=Counter)
    told: int = 0  # images that were said to be done
    furthest: int = -1  # the last place that was come to
    in_vain: int = 0  # deaths since a new image was come to

    def came_to(self, at: AtWork) -> bool:
        """Note what is worked on; whether no attempt has come so far before."""
        if at.first <= self.furthest:
            return False
        self.furthest, self.in_vain = at.first, 0
        return True

    def died(self, at: AtWork | None, how: str) -> None:
        """Draw conclusions from the death of a worker at some images, or before any."""
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
