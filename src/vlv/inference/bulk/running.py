"""Runs a job: processes of this machine, or a Ray cluster, do the shards that are left."""

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial

from vlv.data.remote.locations import url_of
from vlv.inference.bulk.changes import is_as_seen, seen
from vlv.inference.bulk.image_names import SHARED
from vlv.inference.bulk.job import Job, Workers
from vlv.inference.bulk.opening import opened
from vlv.inference.bulk.output import (
    Mark,
    Record,
    compact_records,
    has_lost_caption,
    is_failure,
    is_whole,
    mark_of,
    records,
    was_changed,
)
from vlv.inference.bulk.plan import Shard, freed_names, read_plan
from vlv.inference.bulk.report import Report, close, edited_metadata
from vlv.inference.bulk.supervisor import Supervisor
from vlv.inference.bulk.tasks import Task
from vlv.inference.written import Replace
from vlv.signals import exit_on_signals


def run(
    job: Job,
    workers: Workers | None = None,
    *,
    retry_failed: bool = False,
    overwrite: bool = False,
    overwrite_edited: bool = False,
    begin: Callable[[int | None, int], None] = lambda images, done: None,
    report: Callable[[int], None] = lambda images: None,
    warn: Callable[[str], None] = lambda line: None,
) -> Report:
    """Do the rest of a job, and count the results of the whole job.

    Call it in the main thread: it handles SIGTERM and SIGINT.

    Args:
        job: the job.
        workers: the processes that do the work.
        retry_failed: try images again that failed before.
        overwrite: replace captions in the target that this program wrote before.
        overwrite_edited: also replace captions that were written or edited by hand.
        begin: called first, with the number of images (None: unknown) and the number done.
        report: called with the number of images that were done since the last call.
        warn: called with a sentence about each damage that is repaired.

    Raises:
        ConfigError: the target holds another job, or what is needed is not installed.
        DatasetError: the source cannot be read, or the results do not add up.
        OSError: results cannot be written. Finished shards are kept, as after any other error.
        SystemExit: 128 + the signal, after SIGTERM or SIGINT.
    """
    work = _engine(workers or Workers())
    replace = Replace.ALL if overwrite_edited else Replace.OURS if overwrite else Replace.NONE
    # Signals are handled before the job's files appear: whoever sees them may stop the job.
    with exit_on_signals(), opened(job, replace, warn):
        if not overwrite_edited:
            edited_metadata(job)  # an unreadable file is an error before the work
        left = _look_through(job, retry_failed, replace, warn)
        begin(left.images, left.done)
        if left.tasks:  # else no worker has to load the model
            work(job, iter(left.tasks), report)
        compact_records(job, (task.shard for task in left.tasks))
        return close(job, left.gone, keep_edited=not overwrite_edited)


def _engine(workers: Workers) -> Callable[[Job, Iterator[Task], Callable[[int], None]], None]:
    """The function that does all tasks. Raises ConfigError if the engine is not installed."""
    if workers.engine == "ray":
        from vlv.data.ray_cluster import cluster_address, import_ray
        from vlv.inference.bulk.ray_engine import run_on_ray

        ray = import_ray(cluster_address(workers.ray_address))
        return partial(run_on_ray, ray, workers)
    own = workers.devices(), workers.threads(), workers.decoders, workers.silence, workers.stall
    return lambda job, tasks, report: Supervisor(job, *own).run(tasks, report)


@dataclass
class _Left:
    """What is left of a job.

    tasks: the shards to do. images: all images of the job (None: unknown). done: images that need
    no work. gone: numbers of shards whose files are gone from the source.
    """

    tasks: list[Task] = field(default_factory=list)
    images: int | None = 0
    done: int = 0
    gone: set[int] = field(default_factory=set)


def _look_through(
    job: Job, retry_failed: bool, replace: Replace, warn: Callable[[str], None]
) -> _Left:
    """Inspect everything that is done, down to the bytes; damaged shards are done again."""
    left, folder = _Left(), job.kind == "folder"
    # A caption that the job wrote before it was stopped may always be written again.
    replace = Replace.OURS if replace is Replace.NONE else replace
    freed = set(freed_names(job.folder))
    readable = {shard.file for shard in read_plan(job.folder) if shard.groups}
    for shard in read_plan(job.folder):
        superseded = shard.groups is None and shard.file in readable
        if shard.file is not None and (superseded or _is_gone(shard.file)):
            left.gone.add(shard.number)
            continue
        mark = _valid_mark(job, shard, warn)
        images = mark.counts.total() if mark else shard.images
        left.images = None if left.images is None or images is None else left.images + images
        if mark is None:
            left.tasks.append(Task(shard, replace=replace))
            continue
        retried = retry_failed and mark.failures > 0
        again = _images_again(job, shard, folder, retried, freed)
        if again:
            left.tasks.append(Task(shard, "failed" if retried else "changed", replace))
        left.done += mark.counts.total() - again
    return left


def _valid_mark(job: Job, shard: Shard, warn: Callable[[str], None]) -> Mark | None:
    """The mark of a shard that is done, and whose files are those that were done."""
    mark = mark_of(job, shard.number)
    if mark is not None and not is_whole(job, mark):
        warn(f"shard {shard.number} of {job.target} is damaged; it is done again")
        return None
    if mark is not None and shard.file and _was_changed(mark, shard.file):
        return None
    return mark


def _is_gone(file: str) -> bool:
    """Whether a shard's file is no longer on the disk; one in a store is missed when it is read."""
    return url_of(file) is None and not os.path.exists(file)


def _images_again(
    job: Job, shard: Shard, folder: bool, retried: bool, freed: Collection[str]
) -> int:
    """The number of images of a finished shard that are done again: those that changed in their
    folder, that have lost their caption files and are still in the source, whose caption files are
    `freed` by others, and if failures are `retried`, those that failed.
    """
    if not (folder or job.has_caption_files or retried):
        return 0

    def is_done_again(record: Record) -> bool:
        if retried and is_failure(record["status"]):
            return True
        if record["status"] == SHARED and record["file_name"] in freed:
            return True
        place = os.path.join(job.source, record["file_name"])
        if has_lost_caption(job, record) and (not folder or os.path.exists(place)):
            return True
        return folder and was_changed(job, record)

    return sum(map(is_done_again, records(job, shard)))


def _was_changed(mark: Mark, file: str) -> bool:
    """Whether the file of a shard has another content or, if images failed, another time."""
    now = seen(file)
    if now is None or mark.source is None:
        return False
    return (
        now != mark.source if mark.failures else not is_as_seen(file, mark.source, mark.source_hash)
    )
