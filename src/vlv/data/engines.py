"""Runs the work of data jobs: in this process, in several ones, or on a Ray cluster.

There are two kinds of work. A step is a function of a shard's number that writes its results
itself, complete or not at all, and returns the number of samples. So it does not matter where it
runs, how often, nor in which order. A stream is work on single images whose results come back in
order, for jobs whose shards depend on what became of the images before.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from typing import Literal, TypeVar

from vlv.data.isolated import DecodingPool
from vlv.errors import ConfigError, DatasetError

Engine = Literal["processes", "ray"]
Step = Callable[[int], int]
In = TypeVar("In")
Out = TypeVar("Out")

# Items a thread that are read, at work, or wait for their turn.
_AHEAD = 4


@dataclass(frozen=True)
class Workers:
    """The processes that do the work: `count` of this machine, or of a `ray` cluster."""

    count: int = 1
    engine: Engine = "processes"
    ray_address: str | None = None

    def __post_init__(self) -> None:
        if self.engine == "processes" and self.ray_address is not None:
            raise ConfigError("an address of a Ray cluster needs --engine ray")


def run_step(step: Step, numbers: Sequence[int], workers: Workers) -> Iterator[int]:
    """Do a step for all these shards; yields the number of samples of each one that is done.

    Raises:
        VLVError, OSError: of the step.
        DatasetError: a process died.
    """
    if workers.engine == "ray":
        from vlv.data.on_ray import run_on_ray

        yield from run_on_ray(step, numbers, workers.count, workers.ray_address)
    elif workers.count == 1 or len(numbers) == 1:
        yield from map(step, numbers)
    else:
        yield from _in_processes(step, numbers, min(workers.count, len(numbers)))


def stream(
    function: Callable[[DecodingPool, In], Out],
    items: Iterable[In],
    workers: Workers,
    *,
    max_pixels: int,
) -> Generator[Out, None, None]:
    """`function` of each item, in the order of the items, with a pool that decodes its image. Items
    are read in this process, and a bounded number of them is in memory.

    Raises:
        VLVError, OSError: of the function.
        DatasetError: a process of Ray died again and again.
    """
    if workers.engine == "ray":
        from vlv.data.on_ray import stream_on_ray

        yield from stream_on_ray(function, items, workers.count, workers.ray_address, max_pixels)
        return
    with DecodingPool(workers.count, max_pixels=max_pixels) as pool:
        yield from _in_order(partial(function, pool), items, workers.count)


def _in_processes(step: Step, numbers: Sequence[int], count: int) -> Iterator[int]:
    # A forked process is not safe if this one runs threads; a spawned one is.
    others = set(active_children())
    pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=_end_with_parent)
    try:
        for future in as_completed([pool.submit(step, number) for number in numbers]):
            yield future.result()
    except BrokenProcessPool as error:
        raise DatasetError(
            "a worker process died, perhaps because memory ran out; the same command goes on with "
            "what is left, and fewer --workers need less memory"
        ) from error
    finally:
        # After an error or a signal nothing is waited for: a shard may take many minutes.
        for process in set(active_children()) - others:
            process.kill()
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End this process when its parent does: the next run does the same shards."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _in_order(function: Callable[[In], Out], items: Iterable[In], threads: int) -> Iterator[Out]:
    """`function` of each item, in the order of the items. Items are read in the caller's thread."""
    waiting: deque[Future[Out]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= _AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()
