"""Jobs on the scheduler of the worker, in the test's own process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from vlv.models.vlv import VLVModel
from vlv.serving.worker.jobs import Cancel, Done, Event, Job, Submit
from vlv.serving.worker.scheduler import Scheduler

CANCELLED = 1


@contextmanager
def count_rows(network: nn.Module) -> Iterator[list[int]]:
    """The number of rows of each forward pass of a network."""
    passes: list[int] = []

    def count(network: nn.Module, args: object, output: Any) -> None:
        passes.append(len(output if isinstance(output, Tensor) else output[0]))

    # Before the scheduler's own hook adds placeholders to the output.
    hook = network.register_forward_hook(count, prepend=True)
    yield passes
    hook.remove()


def run_jobs(
    model: VLVModel, jobs: list[Job], cancel_when: Callable[[], bool] = lambda: False
) -> tuple[dict[int, object], int]:
    """Results of jobs that start together, and the number of steps; one job may be cancelled."""
    events: list[Event] = []
    scheduler = Scheduler(model, events.append, max_batch=8, max_pictures=8)
    for id, job in enumerate(jobs):
        scheduler.handle(Submit(id, job))
    steps = 0
    while not scheduler.idle:
        if cancel_when():
            scheduler.handle(Cancel(CANCELLED))
        scheduler.step()
        steps += 1
    return {event.id: event.result for event in events if isinstance(event, Done)}, steps
