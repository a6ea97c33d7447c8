"""A Ray cluster for the commands with `--engine ray`: a running one, or one of this machine.

Results go to the file system that all machines share, so Ray passes on only tasks and counts.
"""

import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from vlv.errors import ConfigError

# Bytes of Ray's object store, which holds only tasks and counts.
_STORE = 100_000_000


def cluster_address(given: str | None) -> str | None:
    """The address of a running cluster, if there is one."""
    return given or os.environ.get("RAY_ADDRESS")


def import_ray(address: str | None) -> Any:
    """Ray with Ray Data. Raises ConfigError, which names the extra, if it is not installed.

    address: of a running cluster; without one it will be started here.
    """
    if address is None and "ray" not in sys.modules:
        # Ray listens on every network of the machine, so only a client with the token may give it
        # work. Ray reads this while it is imported.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(
            f"the engine ray needs {error.name}; install it with: "
            "pip install -c constraints.txt 'vlv[ray]'"
        ) from error
    return ray


@contextmanager
def connected(ray: Any, address: str | None, cpus: int) -> Iterator[None]:
    """Inside, Ray is connected to the cluster at an address, or to one of `cpus` on this machine
    that ends with the block.

    Raises:
        ConfigError: no cluster answers there, or none can be started.
    """
    own = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _STORE}
    # Ray prints the output of actors, but standard output belongs to the command.
    with redirect_stdout(sys.stderr):
        try:
            _connect(ray, address, own)
            settings = ray.data.DataContext.get_current()
            settings.enable_progress_bars = False
            # A shard may take hours without a message.
            settings.execution_no_progress_timeout_s = -1
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            yield
        finally:
            ray.shutdown()


@dataclass(frozen=True)
class Actors:
    """Processes that each hold a model: their number, and what each one uses of its machine."""

    count: int
    cpus: int
    gpus: int

    @classmethod
    def on(
        cls, nodes: list[dict[str, Any]], count: int | None, device: str | None, *, cpus: int = 1
    ) -> "Actors":
        """Of a cluster's machines (`ray.nodes()`): one for each GPU, or one for each machine where
        there are none, if `count` is None.

        An actor has one GPU and `cpus` CPUs; or no GPU and the most CPUs with which all actors run
        at once. device: "cpu" uses no GPU.
        """
        machines = [node["Resources"] for node in nodes if node["Alive"]]
        gpus = 0 if device == "cpu" else int(sum(one.get("GPU", 0) for one in machines))
        if gpus:
            return cls(count or gpus, cpus=cpus, gpus=1)
        count = count or len(machines)
        cores = [int(one.get("CPU", 0)) for one in machines]
        fitting = (
            each for each in range(max(cores), 1, -1) if sum(one // each for one in cores) >= count
        )
        return cls(count, cpus=next(fitting, 1), gpus=0)


def check_no_number(device: str | None) -> None:
    """Raises ConfigError for a device of one machine, such as cuda:1."""
    if device is not None and ":" in device:
        raise ConfigError(f"Ray assigns a GPU to each worker; give --device cuda, not {device}")


def _connect(ray: Any, address: str | None, own: dict[str, Any]) -> None:
    try:
        if address is not None:
            _check_that_it_answers(address)
        ray.init(address or "local", logging_level=logging.ERROR, **({} if address else own))
    except OSError as error:
        raise ConfigError(
            f"no Ray cluster answers at {address}; start one with `ray start --head`, or name "
            "another by --ray-address or RAY_ADDRESS"
        ) from error
    except Exception as error:
        # Ray has no error class for a failed start, and no timeout.
        raise ConfigError(
            f"Ray did not start: {error} Its logs lie in its session's folder; on a busy machine "
            "try again, or start a cluster with `ray start --head` and name it by --ray-address"
        ) from error


def _check_that_it_answers(address: str) -> None:
    """Raises OSError if nobody listens there; Ray would retry for many minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
