"""A whole job: what is left of it is done by processes of this machine, or by a Ray cluster."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from vlv.errors import ConfigError
from vlv.inference.bulk.captioning import Task
from vlv.inference.bulk.job import Job, opened
from vlv.inference.bulk.output import counts_of
from vlv.inference.bulk.plan import read_plan
from vlv.inference.bulk.report import Report, close, failures
from vlv.inference.bulk.supervisor import Supervisor, exit_on_signals


@dataclass(frozen=True)
class Workers:
    """Who does the work.

    Args:
        count: processes with a model each; None: one for each GPU, or one (on Ray, one for each
            machine of the cluster).
        device: of every worker; None: the GPUs in turn, or what else is there.
        decoders: processes of each worker that decode images.
        engine: `processes` of this machine, or the actors of a `ray` cluster.
        ray_address: of a cluster that runs; None: what RAY_ADDRESS says, or else one is started
            on this machine and ended with the job.
    """

    count: int | None = None
    device: str | None = None
    decoders: int = 2
    engine: Literal["processes", "ray"] = "processes"
    ray_address: str | None = None

    def __post_init__(self) -> None:
        if self.engine == "ray":
            if self.device is not None and ":" in self.device:
                raise ConfigError(
                    f"Ray says which GPU a worker has; give --device cuda, not {self.device}"
                )
        elif self.ray_address is not None:
            raise ConfigError("an address of a Ray cluster needs --engine ray")

    def devices(self) -> list[str | None]:
        """The device of each worker; None: the best there is."""
        gpus = torch.cuda.device_count() if self.device is None else 0
        count = self.count or max(1, gpus)
        return [f"cuda:{slot % gpus}" if gpus else self.device for slot in range(count)]

    def threads(self) -> int:
        """Of torch in each worker, so that all together have those that one process would."""
        return max(1, torch.get_num_threads() // len(self.devices()))


def run(
    job: Job,
    workers: Workers | None = None,
    *,
    retry_failed: bool = False,
    overwrite: bool = False,
    begin: Callable[[int | None, int], None] = lambda images, done: None,
    tell: Callable[[int], None] = lambda images: None,
) -> Report:
    """Do what is left of a job, and count the whole.

    Call it in the main thread: it handles SIGTERM and SIGINT.

    Args:
        job: the job.
        workers: who works on it.
        retry_failed: also do the images again that failed before.
        overwrite: captions that lay in the target before the job may be replaced.
        begin: called first, with the number of images (None: unknown) and of those that are done.
        tell: called with the number of images that are done since its last call.

    Raises:
        ConfigError: the target holds another job, or what is needed is not installed.
        DatasetError: the source cannot be read, or the results do not add up.
        OSError: results cannot be written; what is done is kept, as after any other error.
        SystemExit: 128 + the signal, after SIGTERM or SIGINT.
    """
    work = _engine(workers or Workers())
    # From before the job is there to be seen: whoever sees it may stop it.
    with exit_on_signals(), opened(job, overwrite=overwrite) as plan:
        begin(plan.images, _done(job, retry_failed))
        work(job, _tasks(job, retry_failed), tell)
        return close(job, plan)


def _engine(workers: Workers) -> Callable[[Job, Iterator[Task], Callable[[int], None]], None]:
    """What does all tasks. Raises ConfigError where it is not installed."""
    if workers.engine == "ray":
        from vlv.inference.bulk.ray_engine import import_ray, run_on_ray

        return partial(run_on_ray, import_ray(workers), workers)
    own = workers.devices(), workers.threads(), workers.decoders
    return lambda job, tasks, tell: Supervisor(job, *own).run(tasks, tell)


def _tasks(job: Job, retry_failed: bool) -> Iterator[Task]:
    """The shards that are not done, and those with failures if they are to be done again."""
    for shard in read_plan(job.folder):
        counts = counts_of(job, shard)
        if counts is None:
            yield Task(shard)
        elif retry_failed and failures(counts):
            yield Task(shard, only_failed=True)


def _done(job: Job, retry_failed: bool) -> int:
    """Images that need no work."""
    done = 0
    for shard in read_plan(job.folder):
        counts = counts_of(job, shard)
        if counts is not None:
            again = failures(counts).total() if retry_failed else 0
            done += counts.total() - again
    return done
