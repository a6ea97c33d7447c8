"""The shards of a job on a Ray cluster: a running one, or one started on this machine.

Ray Data gives shards to a pool of actors, each with a model. It restarts an actor that dies, and
the shard is done again. Results go to the file system that all machines share, as the workers of
one machine write them. A file for each shard in the job's scratch folder records the images at
work, so that the next actor knows what the last one did when it died.
"""

import logging
import os
import pickle
import secrets
import socket
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vlv.errors import ConfigError, VLVError
from vlv.inference.bulk.captioning import ShardCaptioner
from vlv.inference.bulk.job import SCRATCH, Job
from vlv.inference.bulk.plan import Shard
from vlv.inference.bulk.supervisor import exit_on_signals
from vlv.inference.bulk.tasks import MAX_DEATHS, Attempt, AtWork, Task, too_many_deaths
from vlv.inference.bulk.worker import Failed

if TYPE_CHECKING:
    from vlv.inference.bulk.job import Workers

# Bytes of Ray's object store, which holds only tasks and counts.
_STORE = 100_000_000
_BEGUN = "begun"


def import_ray(workers: "Workers") -> Any:
    """Ray with Ray Data. Raises ConfigError, which names the extra, if it is not installed."""
    if _address(workers) is None and "ray" not in sys.modules:
        # For a cluster that is started here: Ray listens on every network of the machine, so only a
        # client with the token may give it work. Ray reads this while it is imported.
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


def _address(workers: "Workers") -> str | None:
    """The address of a running cluster, if there is one."""
    return workers.ray_address or os.environ.get("RAY_ADDRESS")


def run_on_ray(
    ray: Any,
    workers: "Workers",
    job: Job,
    tasks: Iterator[Task],
    report: Callable[[int], None],
) -> None:
    """Do all tasks; `report` is called with the number of images done since its last call.

    `ray` is the module. An actor that dies is started again.

    Raises:
        ConfigError: no cluster answers at the address.
        VLVError, OSError: an actor cannot go on.
        ChildProcessError: actors die with any task.
        SystemExit: 128 + the signal, on SIGTERM and SIGINT; shards at work are not done then.
    """
    rows = [{"task": pickle.dumps(task)} for task in tasks]
    if not rows:
        return
    # Ray prints the output of actors, but standard output belongs to the command.
    with redirect_stdout(sys.stderr), _cluster(ray, workers):
        pool = _pool(ray.nodes(), workers)
        settings = ray.data.DataContext.get_current()
        settings.enable_progress_bars = False
        # A shard may take hours without a message.
        settings.execution_no_progress_timeout_s = -1
        settings.max_consecutive_actor_init_deaths = MAX_DEATHS
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _Actor,
            fn_constructor_args=(_absolute(job), workers.device, pool.cpus, workers.decoders),
            # No task waits for a busy actor while another one is free.
            compute=ray.data.ActorPoolStrategy(size=pool.actors, max_tasks_in_flight_per_actor=1),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
        )
        # Set after Ray's start, which sets its own handlers.
        with exit_on_signals():
            for row in done.iter_rows():
                result = pickle.loads(row["result"])
                if isinstance(result, Failed):
                    raise result.error
                report(result.total())


@contextmanager
def _cluster(ray: Any, workers: "Workers") -> Iterator[None]:
    """Connect to a running cluster, or to one on this machine that ends with the block."""
    address = _address(workers)
    own = {
        "num_cpus": max(workers.count or 1, torch.get_num_threads()),
        "include_dashboard": False,
        "object_store_memory": _STORE,
    }
    try:
        _connect(ray, address, own)
        yield
    finally:
        ray.shutdown()


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


@dataclass(frozen=True)
class _Pool:
    """The number of actors, and what each of them uses of its machine."""

    actors: int
    cpus: int
    gpus: int


def _pool(nodes: list[dict[str, Any]], workers: "Workers") -> _Pool:
    """The most CPUs for each actor with which all of them run at once."""
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = 0 if workers.device == "cpu" else int(sum(one.get("GPU", 0) for one in machines))
    if gpus:
        return _Pool(workers.count or gpus, cpus=1, gpus=1)
    count = workers.count or len(machines)
    cores = [int(one.get("CPU", 0)) for one in machines]
    fitting = (
        cpus for cpus in range(max(cores), 1, -1) if sum(one // cpus for one in cores) >= count
    )
    return _Pool(count, cpus=next(fitting, 1), gpus=0)


def _absolute(job: Job) -> Job:
    """The job with absolute paths: an actor may start in any folder."""
    model = os.path.abspath(job.model) if os.path.isdir(job.model) else job.model
    source, target = os.path.abspath(job.source), job.target.absolute()
    return replace(job, source=source, target=target, model=model)


class _Actor:
    """One process with a model; called with a task at a time."""

    def __init__(self, job: Job, device: str | None, threads: int, decoders: int) -> None:
        torch.set_num_threads(threads)
        self._job = job
        self._device = device
        self._decoders = decoders
        self._captioner: ShardCaptioner | None = None

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        task: Task = pickle.loads(row["task"])
        try:
            result: Counter[str] | Failed = self._done(task)
        except (VLVError, OSError) as error:
            result = Failed(error)
        except Exception:
            # An image may have caused any error; the next actor finds out which image.
            traceback.print_exc(file=sys.stderr)
            sys.stderr.flush()
            os._exit(1)
        return {"result": pickle.dumps(result)}

    def _done(self, task: Task) -> Counter[str]:
        attempts = _Attempts(self._job, task.shard)
        task = attempts.concluded(task)
        attempts.record(_BEGUN)
        if self._captioner is None:
            # Not in the actor's __init__: here a death counts as a death of the shard.
            self._captioner = ShardCaptioner(self._job, self._device, self._decoders)
        counts = self._captioner.caption(task, attempts.at_work)
        attempts.end()
        return counts


class _Attempts:
    """The file that records the attempts at a shard, beyond the death of an actor."""

    def __init__(self, job: Job, shard: Shard) -> None:
        self._path: Path = job.folder / SCRATCH / f"{shard.name}.attempts"

    def record(self, line: str) -> None:
        with open(self._path, "a", encoding="ascii") as file:
            file.write(line + "\n")

    def at_work(self, first: int, count: int) -> None:
        """Record the images that the actor works on now."""
        self.record(f"{first} {count}")

    def end(self) -> None:
        """Remove the file: the shard is done."""
        self._path.unlink()

    def concluded(self, task: Task) -> Task:
        """The task, with what the deaths of earlier actors say about its images.

        Raises:
            ChildProcessError: too many died without a new group of images being done.
        """
        attempt, in_vain = Attempt(task), 0
        for groups in self._before():
            furthest = [attempt.reached(at) for at in groups]
            in_vain = 0 if any(furthest[1:]) else in_vain + 1
            attempt.died(groups[-1] if groups else None, "on Ray")
        if in_vain >= MAX_DEATHS:
            raise too_many_deaths(f"in shard {task.shard.number}")
        return attempt.task

    def _before(self) -> list[list[AtWork]]:
        """The groups of images that each earlier attempt reached."""
        lines = self._path.read_text("ascii").splitlines() if self._path.exists() else []
        found: list[list[AtWork]] = []
        for line in lines:
            if line == _BEGUN:
                found.append([])
            else:
                found[-1].append(AtWork(*map(int, line.split())))
        return found
