"""The work of data jobs on a Ray cluster: a task for each shard, or for a few images of a stream.
Shards that need a model are done by actors, which load it once.

A task whose process dies is done again, on whichever machine.
"""

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice
from typing import Any, TypeVar

from vlv.data.isolated import DecodingPool
from vlv.data.ray_cluster import Actors, cluster_address, connected, import_ray
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


def run_on_actors(
    opened: Callable[[int], Callable[[int], Out]],
    numbers: Sequence[int],
    count: int | None,
    address: str | None,
    *,
    device: str | None,
    cpus: int,
    own_cpus: int,
) -> Iterator[Out]:
    """Do a step for all these shards, each in an actor; yields results as they come.

    opened: called once in each actor, with the number of its CPUs; gives the step. count, device
    and cpus: as for `Actors.on`. address: as for `run_on_ray`. own_cpus: of a new cluster on this
    machine; more if the actors need more.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers at the address.
        VLVError, OSError: of the step, or of opening it.
        DatasetError: the actors died again and again.
    """
    address = cluster_address(address)
    ray = import_ray(address)
    rows = [{"number": number} for number in numbers]
    with connected(ray, address, max(own_cpus, (count or 1) * cpus)):
        actors = Actors.on(ray.nodes(), count, device, cpus=cpus)
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _Actor,
            fn_constructor_args=(pickle.dumps(opened), actors.cpus),
            # No shard waits for a busy actor while another one is free.
            compute=ray.data.ActorPoolStrategy(size=actors.count, max_tasks_in_flight_per_actor=1),
            num_cpus=actors.cpus,
            num_gpus=actors.gpus,
            max_task_retries=_RETRIES,
        )
        # Set after Ray's start, which sets its own handlers.
        with exit_on_signals():
            try:
                for row in done.iter_rows():
                    result = pickle.loads(row["result"])
                    if isinstance(result, Exception):
                        raise result
                    yield result
            except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
                raise DatasetError(
                    f"processes of Ray died {_RETRIES + 1} times over the same shard, perhaps "
                    "because memory ran out; the same command goes on with what is left"
                ) from error


class _Actor:
    """A process that keeps what its step needs, for all of its shards."""

    def __init__(self, opened: bytes, cpus: int) -> None:
        self._opened, self._cpus = opened, cpus
        self._step: Callable[[int], Any] | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, bytes]:
        """The result of a shard, or the error that ends the job."""
        try:
            if self._step is None:
                # Not in __init__, where an error is none of the job's.
                self._step = pickle.loads(self._opened)(self._cpus)
            result = self._step(row["number"])
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
