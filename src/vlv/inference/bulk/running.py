"""A whole job: what is left of it is done by processes of this machine, or by a Ray cluster."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from vlv.inference.bulk.job import Job, Workers
from vlv.inference.bulk.opening import opened
from vlv.inference.bulk.output import (
    GONE,
    Mark,
    compact_records,
    has_lost_caption,
    is_whole,
    mark_of,
    records,
    was_changed,
)
from vlv.inference.bulk.plan import Shard, read_plan, seen
from vlv.inference.bulk.report import Report, close, edited_metadata
from vlv.inference.bulk.supervisor import Supervisor, exit_on_signals
from vlv.inference.bulk.tasks import Task
from vlv.inference.written import Replace


def run(
    job: Job,
    workers: Workers | None = None,
    *,
    retry_failed: bool = False,
    overwrite: bool = False,
    overwrite_edited: bool = False,
    begin: Callable[[int | None, int], None] = lambda images, done: None,
    tell: Callable[[int], None] = lambda images: None,
    warn: Callable[[str], None] = lambda line: None,
) -> Report:
    """Do what is left of a job, and count the whole.

    Call it in the main thread: it handles SIGTERM and SIGINT.

    Args:
        job: the job.
        workers: who works on it.
        retry_failed: also do the images again that failed before.
        overwrite: captions of this program that lay in the target before may be replaced.
        overwrite_edited: captions that somebody has written or changed may be replaced.
        begin: called first, with the number of images (None: unknown) and of those that are done.
        tell: called with the number of images that are done since its last call.
        warn: called with a sentence for each damage that is mended.

    Raises:
        ConfigError: the target holds another job, or what is needed is not installed.
        DatasetError: the source cannot be read, or the results do not add up.
        OSError: results cannot be written; what is done is kept, as after any other error.
        SystemExit: 128 + the signal, after SIGTERM or SIGINT.
    """
    work = _engine(workers or Workers())
    replace = Replace.ALL if overwrite_edited else Replace.OURS if overwrite else Replace.NONE
    # From before the job is there to be seen: whoever sees it may stop it.
    with exit_on_signals(), opened(job, replace, warn):
        if not overwrite_edited:
            edited_metadata(job)  # one that cannot be read is told before the work
        left = _look_through(job, retry_failed, replace, warn)
        begin(left.images, left.done)
        work(job, iter(left.tasks), tell)
        compact_records(job, (task.shard for task in left.tasks))
        return close(job, left.gone, keep_edited=not overwrite_edited)


def _engine(workers: Workers) -> Callable[[Job, Iterator[Task], Callable[[int], None]], None]:
    """What does all tasks. Raises ConfigError where it is not installed."""
    if workers.engine == "ray":
        from vlv.inference.bulk.ray_engine import import_ray, run_on_ray

        return partial(run_on_ray, import_ray(workers), workers)
    own = workers.devices(), workers.threads(), workers.decoders, workers.silence, workers.stall
    return lambda job, tasks, tell: Supervisor(job, *own).run(tasks, tell)


@dataclass
class _Left:
    """What is left of a job: shards to do, images (None: unknown), and those that need no work;
    `gone` are numbers of shards whose files the source no longer holds.
    """

    tasks: list[Task] = field(default_factory=list)
    images: int | None = 0
    done: int = 0
    gone: set[int] = field(default_factory=set)


def _look_through(
    job: Job, retry_failed: bool, replace: Replace, warn: Callable[[str], None]
) -> _Left:
    """Look through all that is done, down to the bytes: what was damaged is done again."""
    left, folder = _Left(), job.kind == "folder"
    # What the job itself wrote before it was cut off may always be written again.
    replace = Replace.OURS if replace is Replace.NONE else replace
    readable = {shard.file for shard in read_plan(job.folder) if shard.groups}
    for shard in read_plan(job.folder):
        superseded = shard.groups is None and shard.file in readable
        if shard.file is not None and (superseded or not os.path.exists(shard.file)):
            left.gone.add(shard.number)
            continue
        mark = mark_of(job, shard.number)
        if mark is not None and not is_whole(job, mark):
            warn(f"shard {shard.number} of {job.target} is damaged; it is done again")
            mark = None
        if mark is not None and shard.file and _was_changed(mark, shard.file):
            mark = None
        images = mark.counts.total() if mark else shard.images
        left.images = None if left.images is None or images is None else left.images + images
        if mark is None:
            left.tasks.append(Task(shard, replace=replace))
            continue
        again = _lost_captions(job, shard, folder)
        if retry_failed and mark.failures:
            again += mark.failures
            left.tasks.append(Task(shard, "failed", replace))
        else:
            if folder and (mark.failures or mark.counts[GONE]):
                again += sum(was_changed(job, record) for record in records(job, shard))
            if again:
                left.tasks.append(Task(shard, "changed", replace))
        left.done += mark.counts.total() - again
    return left


def _lost_captions(job: Job, shard: Shard, folder: bool) -> int:
    """How many images of a shard that is done, and still in the source, are without the caption
    file that they had.
    """
    if not job.has_caption_files:
        return 0
    lost = [one["file_name"] for one in records(job, shard) if has_lost_caption(job, one)]
    return sum(not folder or os.path.exists(os.path.join(job.source, name)) for name in lost)


def _was_changed(mark: Mark, file: str) -> bool:
    """Whether the file of a shard has another size, or is another one after images failed."""
    now = seen(file)
    if now is None or mark.source is None:
        return False
    return now != mark.source if mark.failures else now[0] != mark.source[0]
