"""The work of data jobs on a Ray cluster: a task for each shard, or for a few images of a stream.

A task whose process dies is done again, on whichever machine.
"""

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice
from typing import Any, TypeVar

from vlv.data.isolated import DecodingPool
from vlv.data.ray_cluster import cluster_address, connected, import_ray
from vlv.errors import DatasetError, VLVError
from vlv.signals import exit_on_signals

In = TypeVar("In")
Out = TypeVar("Out")

# Images of a task: enough that sending them takes less time than decoding them.
_EACH = 8
# Tasks for each process of which the results are waited for.
_AHEAD = 2
# How often a task is done again whose process dies.
_RETRIES = 3


def run_on_ray(
    step: Callable[[int], int], numbers: Sequence[int], count: int, address: str | None
) -> Iterator[int]:
    """Do a step for all these shards, `count` at a time; yields their numbers of samples.

    address: of a running cluster; None is that in RAY_ADDRESS, or a new one on this machine.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers at the address.
        VLVError, OSError: of the step.
    """
    address = cluster_address(address)
    ray = import_ray(address)
    rows = [{"number": number} for number in numbers]
    with connected(ray, address, count):
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            partial(_done, pickle.dumps(step)), num_cpus=1, concurrency=count
        )
        # Set after Ray's start, which sets its own handlers.
        with exit_on_signals():
            for row in done.iter_rows():
                result = pickle.loads(row["result"])
                if isinstance(result, Exception):
                    raise result
                yield result


def _done(step: bytes, row: dict[str, Any]) -> dict[str, bytes]:
    """The number of samples of a shard, or the error that ends the job."""
    try:
        result: int | Exception = pickle.loads(step)(row["number"])
    except (VLVError, OSError) as error:
        result = error
    return {"result": pickle.dumps(result)}


def stream_on_ray(
    function: Callable[[DecodingPool, In], Out],
    items: Iterable[In],
    count: int,
    address: str | None,
    max_pixels: int,
) -> Iterator[Out]:
    """`function` of each item, in the order of the items, in `count` tasks at a time.

    address: as for `run_on_ray`.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers at the address.
        VLVError, OSError: of the function.
        DatasetError: the process of a task died again and again.
    """
    address = cluster_address(address)
    ray = import_ray(address)
    given = iter(items)
    work = pickle.dumps(function)
    with connected(ray, address, count):
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_each_done)
        waiting: deque[Any] = deque()
        # Set after Ray's start, which sets its own handlers.
        with exit_on_signals():
            while True:
                while len(waiting) < _AHEAD * count and (some := list(islice(given, _EACH))):
                    waiting.append(task.remote(work, max_pixels, pickle.dumps(some)))
                if not waiting:
                    return
                try:
                    result = pickle.loads(ray.get(waiting.popleft()))
                except (
                    ray.exceptions.WorkerCrashedError,
                    ray.exceptions.OutOfMemoryError,
                ) as error:
                    raise DatasetError(
                        f"processes of Ray died {_RETRIES + 1} times over the same images, perhaps "
                        "because memory ran out; the same command goes on with what is left"
                    ) from error
                if isinstance(result, Exception):
                    raise result
                yield from result


def _each_done(work: bytes, max_pixels: int, items: bytes) -> bytes:
    """The results of some items, or the error that ends the job."""
    function, pool = pickle.loads(work), _pool(max_pixels)
    try:
        result: Any = [function(pool, item) for item in pickle.loads(items)]
    except (VLVError, OSError) as error:
        result = error
    return pickle.dumps(result)


@lru_cache(maxsize=1)
def _pool(max_pixels: int) -> DecodingPool:
    """The pool of this process, for all of its tasks."""
    return DecodingPool(workers=1, max_pixels=max_pixels)
