"""The shards of a job on a Ray cluster: a running one, or one started on this machine.

Ray Data gives shards to a pool of actors, each with a model. It restarts an actor that dies, and
the shard is done again. Results go to the file system that all machines share, as the workers of
one machine write them. A file for each shard in the job's scratch folder records the images at
work, so that the next actor knows what the last one did when it died.
"""

import os
import pickle
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vlv.data.ray_cluster import Actors, cluster_address, connected
from vlv.data.remote.locations import anywhere
from vlv.errors import VLVError
from vlv.inference.bulk.captioning import ShardCaptioner
from vlv.inference.bulk.job import SCRATCH, Job
from vlv.inference.bulk.plan import Shard
from vlv.inference.bulk.tasks import MAX_DEATHS, Attempt, AtWork, Task, too_many_deaths
from vlv.inference.bulk.worker import Failed
from vlv.signals import exit_on_signals

if TYPE_CHECKING:
    from vlv.inference.bulk.job import Workers

_BEGUN = "begun"


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
    cpus = max(workers.count or 1, torch.get_num_threads())
    with connected(ray, cluster_address(workers.ray_address), cpus):
        pool = Actors.on(ray.nodes(), workers.count, workers.device)
        ray.data.DataContext.get_current().max_consecutive_actor_init_deaths = MAX_DEATHS
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _Actor,
            fn_constructor_args=(_absolute(job), workers.device, pool.cpus, workers.decoders),
            # No task waits for a busy actor while another one is free.
            compute=ray.data.ActorPoolStrategy(size=pool.count, max_tasks_in_flight_per_actor=1),
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


def _absolute(job: Job) -> Job:
    """The job with absolute paths: an actor may start in any folder."""
    model = os.path.abspath(job.model) if os.path.isdir(job.model) else job.model
    return replace(job, source=anywhere(job.source), target=job.target.absolute(), model=model)


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
