"""What the processes of a run tell each other. Knows no model and no file.

Objects travel over gloo, in the CPU's memory, whatever the devices exchange gradients by.
"""

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from vlv.errors import ConfigError, TrainingError, VLVError

Value = TypeVar("Value")
# The first process may validate for hours; heartbeats (heartbeat.py) find those that hang.
_TIMEOUT = timedelta(days=7)


class Processes:
    """The processes of a run, of which this is one; one alone needs no process group."""

    def __init__(self, *, alone: bool = False) -> None:
        """alone: what is done concerns this process only, whatever others there are."""
        launched = dist.is_available() and dist.is_initialized() and not alone
        self.together = launched and dist.get_world_size() > 1
        self.rank = dist.get_rank() if self.together else 0
        self.count = dist.get_world_size() if self.together else 1
        self.group = _new_group() if launched else None
        self.writers = _new_group() if launched else None
        """For the thread that writes checkpoints, which talks while the others compute. A launched
        process that is alone needs it as well: DCP refuses a default group of GPUs.
        """

    def close(self) -> None:
        """These processes have nothing more to tell each other by this."""
        for group in (self.group, self.writers):
            if group is not None:
                dist.destroy_process_group(group)
        self.group = self.writers = None
        self.together = False

    @property
    def first(self) -> bool:
        """Whether this process decides and writes what is written once."""
        return self.rank == 0

    def from_first(self, value: Value) -> Value:
        """The first process's value; all processes have to call."""
        if not self.together:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def from_all(self, value: Value) -> list[Value]:
        """The values of all processes, by rank; all processes have to call."""
        if not self.together:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self.group)
        return values

    def largest(self, number: int) -> int:
        """The largest of what the processes say; all have to call. No process waits for a GPU."""
        if not self.together:
            return number
        said = torch.tensor(number)
        dist.all_reduce(said, dist.ReduceOp.MAX, group=self.group)
        return int(said)

    def anyone(self, wish: bool) -> bool:
        """Whether any process wishes it; all have to call."""
        return bool(self.largest(int(wish)))

    def on_all(self, act: Callable[[], Value]) -> Value:
        """What `act` returns here, once it has returned on all processes; all have to call.

        Raises:
            VLVError: what `act` raised; where it did on another process only, a TrainingError with
                the same sentence.
        """
        value: Value | None = None
        mine: VLVError | None = None
        try:
            value = act()
        except VLVError as error:
            mine = error
        where = f" (process {self.rank} on {socket.gethostname()})" if self.together else ""
        found = self.from_all(None if mine is None else f"{mine}{where}")
        if mine is not None and not self.together:
            raise mine
        for problem in filter(None, found):
            raise TrainingError(problem) from mine
        return value  # type: ignore[return-value]


def require_one_process(what: str) -> None:
    """Raises ConfigError where a launcher has started several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"{what} runs in one process; start it without a launcher")


def _new_group() -> Any:
    return dist.new_group(backend="gloo", timeout=_TIMEOUT)
