"""A step of a curation job on a Ray cluster: a task for each shard.

A shard whose process dies is done again, on whichever machine.
"""

import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from vlv.data.ray_cluster import cluster_address, connected, import_ray
from vlv.errors import VLVError
from vlv.signals import exit_on_signals


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
