"""One machinery for `vlv data convert`, `split` and `merge`: datasets in, parts of a dataset out.

Images are read in order, changed by several processes, and written in order, so that the result
does not depend on the number of processes, or on kills. In memory are the images that are at work
and, of parquet, a group of rows.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from vlv.data.converting.change import Change, Planned, changed, planned
from vlv.data.converting.record import FOLDER, Record
from vlv.data.converting.shards import SHARDS, Shard, finish_folder
from vlv.data.converting.splitting import Split
from vlv.data.engines import Workers, stream
from vlv.data.images import MAX_OWN_PIXELS
from vlv.data.isolated import DecodingPool
from vlv.data.items import (
    Item,
    Place,
    count_items,
    fingerprint,
    items,
    origins,
    with_readable_captions,
)
from vlv.data.keys import valid_key
from vlv.data.lenient import Unusable
from vlv.data.remote.locations import anywhere, shown_name
from vlv.data.remote.samples import NOT_FETCHED
from vlv.data.samples import Sample
from vlv.data.sets import detect_format
from vlv.errors import DatasetError
from vlv.unfinished import remove_unfinished

# What img2dataset keeps of a sample beside its own fields; writers add them anew.
_OF_SHARDS = ("caption", "key", "status")
# Examples of new names in a summary.
_SHOWN = 10


@dataclass(frozen=True)
class Job:
    """What goes where.

    sources: folders of images, shards, tables, or folders of those.
    target: the folder of the result, or of its parts.
    layout: one of `vlv.data.sets.FORMATS`; None is that of the first source.
    shard_size, shard_bytes: the most images, and bytes of images, in a shard.
    split: which part an image belongs to; None is one dataset.
    """

    sources: tuple[Path, ...]
    target: Path
    layout: str | None = None
    change: Change = field(default_factory=Change)
    split: Split | None = None
    shard_size: int = 10_000
    shard_bytes: int = 1_000_000_000

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts' folders; empty for the target itself."""
        return ("",) if self.split is None else self.split.parts


@dataclass
class Outcome:
    """Images and shards of each part, what was left out, and what has another name."""

    images: dict[str, int]
    shards: dict[str, int]
    refused: Counter[str]
    renamed: int
    renamed_first: list[tuple[str, str]]


def run_job(
    job: Job,
    workers: Workers,
    *,
    planned_for: Callable[[int], object] = lambda left: None,
    seen: Callable[[], object] = lambda: None,
    refused: Callable[[Unusable], object] = lambda one: None,
) -> Outcome:
    """Do the job, or what is left of it.

    Args:
        job: what goes where.
        workers: that change images. They are read and written here.
        planned_for: called before the work with the number of images that are left.
        seen: called for each image.
        refused: called for each image that is left out, those of earlier runs among them.

    Raises:
        ConfigError: the target holds something else.
        DatasetError: nothing readable is in a source, or no image; or a store gives a file of it
            no longer.
    """
    layout = job.layout or detect_format(job.sources[0])
    inside = origins(job.sources)
    settings = {
        "sources": [anywhere(path) for path in job.sources],
        "sources hash": fingerprint(inside, leave_out=job.target),
        "layout": layout,
        "change": asdict(job.change),
        "split": job.split and job.split.settings(),
        "shard size": [job.shard_size, job.shard_bytes],
    }
    total = 0
    for source in job.sources:
        images = count_items(origins([source]), leave_out=job.target)
        if not images:
            raise DatasetError(f"{shown_name(source)} holds no image")
        total += images
    with Record(job.target, settings) as record:
        for one in record.refused():
            refused(one)
        if not record.finished:
            work = _Work(job, layout, record, seen, refused)
            origin, index = work.start
            done = count_items(inside[:origin], leave_out=job.target) + index
            planned_for(max(0, total - done))
            found = items(inside, start=work.start, leave_out=job.target)
            work.do(with_readable_captions(found), workers)
        states = {part: record.state(part) for part in job.parts}
        return Outcome(
            {part: state.images for part, state in states.items()},
            {part: state.shards for part, state in states.items()},
            record.reasons(),
            *record.renamed(_SHOWN),
        )


class _Work:
    """What one process does of a job."""

    def __init__(
        self,
        job: Job,
        layout: str,
        record: Record,
        seen: Callable[[], object],
        refused: Callable[[Unusable], object],
    ) -> None:
        self._job, self._layout, self._record = job, layout, record
        self._seen, self._refused = seen, refused
        self._states = {part: record.state(part) for part in job.parts}
        self.start: Place = min(state.next for state in self._states.values())
        """Where to go on reading."""
        self._open: dict[str, Shard] = {}
        self._end: Place = (0, 0)

    def do(self, found: Iterator[Item], workers: Workers) -> None:
        """Write every image that is found to its part."""
        for part in self._job.parts:
            remove_unfinished(self._job.target / part)
            remove_unfinished(self._scratch(part))
        try:
            work = partial(_made, self._job.change)
            results = stream(work, self._planned(found), workers, max_pixels=MAX_OWN_PIXELS)
            with closing(results):
                for item, part, made in results:
                    self._take(item, part, made)
                    self._seen()
            for part in list(self._open):
                self._close(part)
        finally:
            for shard in self._open.values():
                shard.discard()
        if self._layout == "folder":
            for part in self._job.parts:
                shards = self._record.state(part).shards
                finish_folder(self._job.target / part, self._scratch(part), shards)
        self._record.finish()
        for part in self._job.parts:
            shutil.rmtree(self._scratch(part), ignore_errors=True)

    def _planned(
        self, found: Iterator[Item]
    ) -> Iterator[tuple[Item, str, Planned | Unusable | None]]:
        """Each image with its part, and what is to be done; None where it is done."""
        split, change = self._job.split, self._job.change
        for item in found:
            sample = item.sample
            if isinstance(sample, Unusable):
                yield item, "", sample
                continue
            part = "" if split is None else split.part_of(sample)
            if item.place < self._states[part].next:
                yield item, part, None
            else:
                yield item, part, planned(item.name, sample, change)

    def _take(self, item: Item, part: str, made: Sample | Unusable | None) -> None:
        place = item.place
        self._end = (place[0], place[1] + 1)
        if isinstance(made, Unusable):
            if made.reason == NOT_FETCHED:  # the same command goes on when the store does
                raise DatasetError(made.message)
            one = replace(made, name=item.name)
            if self._record.refuse(place, one):
                self._refused(one)
        elif made is not None:
            self._write(part, place, _one_line_each(made))

    def _write(self, part: str, place: Place, sample: Sample) -> None:
        job = self._job
        shard = self._open.get(part)
        too_large = shard and shard.bytes + len(sample.image) > job.shard_bytes
        if shard and (shard.images >= job.shard_size or too_large):
            self._close(part, place)
            shard = None
        if shard is None:
            number = self._record.state(part).shards
            scratch = self._scratch(part)
            scratch.mkdir(parents=True, exist_ok=True)
            shard = SHARDS[self._layout](job.target / part, scratch, number)
            self._open[part] = shard
        key = self._record.key(part, place, sample.key, valid_key(sample.key, self._layout))
        shard.add(replace(sample, key=key))

    def _close(self, part: str, end: Place | None = None) -> None:
        shard = self._open[part]
        shard.close()
        self._record.add_shard(part, shard.images, end or self._end)
        del self._open[part]

    def _scratch(self, part: str) -> Path:
        return self._job.target / FOLDER / (part or "all")


def _one_line_each(sample: Sample) -> Sample:
    """The sample with captions as every layout holds them: on one line, with single blanks."""
    meta = {name: value for name, value in sample.meta.items() if name not in _OF_SHARDS}
    texts = [" ".join(text.split()) for text in sample.texts]
    if len(texts) > 1:
        meta["texts"] = texts
    caption = " ".join((sample.caption or "").split())
    other = sample.meta.get("caption")
    # A folder may hold a `text` that counts and another `caption` beside it.
    others = other if isinstance(other, list) else [other] if other else []
    if any(" ".join(str(one).split()) not in [caption, *texts] for one in others):
        meta.setdefault("source_caption", other)
    return replace(sample, caption=caption or None, meta=meta)


def _made(
    change: Change, pool: DecodingPool, found: tuple[Item, str, Planned | Unusable | None]
) -> tuple[Item, str, Sample | Unusable | None]:
    item, part, plan = found
    made = changed(plan, change, pool) if isinstance(plan, Planned) else plan
    # The file as it was is not kept any longer.
    return Item(item.place, item.name, Unusable(item.name, "")), part, made


def settings_of(outcome: Outcome) -> dict[str, Any]:
    """An outcome for a program."""
    return {
        "images": sum(outcome.images.values()),
        "parts": {part: count for part, count in outcome.images.items() if part},
        "shards": sum(outcome.shards.values()),
        "refused": dict(outcome.refused),
        "renamed": outcome.renamed,
    }
