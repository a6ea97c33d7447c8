"""The work on one shard, in any process: read, decode ahead, caption, commit.

Images are captioned in groups that depend only on their places in the shard, so that captions do
not depend on the number of workers, on the worker, or on kills.
"""

import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Self

import numpy as np

from vlv.data.remote.samples import NOT_FETCHED
from vlv.data.samples import Sample
from vlv.inference.batching import FIRST_SIZE, Batches
from vlv.inference.bulk.changes import hash_as_seen, seen
from vlv.inference.bulk.decoding import ImageDecoder, Pixels, refusal_line
from vlv.inference.bulk.image_names import KEPT, SHARED
from vlv.inference.bulk.job import SCRATCH, Job
from vlv.inference.bulk.output import (
    OK,
    Record,
    commit,
    found_caption_file,
    has_lost_caption,
    records,
    sample_writer,
    target_name,
    was_changed,
)
from vlv.inference.bulk.plan import Shard, freed_names
from vlv.inference.bulk.reading import read_shard
from vlv.inference.bulk.tasks import Task
from vlv.inference.caption_files import holds_text
from vlv.inference.captioning import CaptionSettings, caption_encoded
from vlv.inference.encoding import Pixels as Picture
from vlv.inference.encoding import default_batch_size, encode_pixels
from vlv.inference.engines.engine import CaptionEngine
from vlv.inference.engines.prompts import Prompts
from vlv.inference.loading import open_model
from vlv.inference.postprocess import surround
from vlv.inference.records import Captioned, Encoded, ImageInput, Refused
from vlv.inference.written import FolderRecords, Replace, may_replace
from vlv.text import begun_with, printable

# Groups that are read and decoded while one is captioned.
_AHEAD = 2
# Batches in a group whose captions are written with one beam: images join while others are written.
_BATCHES = 4


# Called before work on images, with the place of the first one and their number.
Announce = Callable[[int, int], None]


class _NotFetchedError(Exception):
    """A store does not give a shard again, some of whose images have captions."""


class ShardCaptioner:
    """A model and decoders that are kept between shards; use it in a `with`."""

    def __init__(self, job: Job, device: str | None, decoders: int) -> None:
        self._job = job
        self._model = open_model(
            job.model,
            revision=job.revision,
            device=device,
            dtype=job.dtype,
            quantization=job.quantization,
            offload=job.offload,
            log=lambda line: None,
        )
        self._engine: CaptionEngine | None
        self._prompts: Prompts | None
        self._engine, self._prompts = job.engine.open(self._model)
        if self._engine is None:
            self._caption_decoder = self._model.caption_decoder
        first = max(FIRST_SIZE, default_batch_size(self._model))
        self._records = FolderRecords()
        self._batches = Batches(job.batch_size, first)
        self._group = self._batches.size * (1 if job.captions.searches else _BATCHES)
        self._decoder = ImageDecoder(job, self._model.encoder.settings, decoders)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder.close()
        if self._engine is not None:
            self._engine.close()

    def caption(self, task: Task, announce: Announce = lambda first, count: None) -> Counter[str]:
        """Do one shard and commit it. Returns the counts of results, without earlier images.

        Raises:
            OSError: results cannot be written.
            VLVError: the job cannot go on, with any shard.
        """
        if task.given_up and task.again:
            return Counter()  # it stays as it was
        try:
            return self._done(task, announce)
        except _NotFetchedError:
            return Counter()  # its captions are not lost with it

    def _done(self, task: Task, announce: Announce) -> Counter[str]:
        job, shard = self._job, task.shard
        before = self._captions_before(task) if task.again else {}
        source = seen(shard.file) if shard.file else None
        scratch = job.folder / SCRATCH / shard.name
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / "files").mkdir(parents=True)
        try:
            with (
                open(scratch / "lines", "w", encoding="ascii") as lines,
                sample_writer(job, shard, scratch / "files") as write,
            ):
                for record in self._written(task, before, announce, write):
                    lines.write(json.dumps(record) + "\n")
            counts = commit(
                job,
                shard,
                source,
                hash_as_seen(shard.file, source) if shard.file and source else None,
                scratch / "files",
                scratch / "lines",
                task.replace,
                self._records,
            )
        except OSError as error:
            if error.filename is not None or error.errno is None:
                raise
            # The error of a failed write does not name the file.
            raise type(error)(error.errno, os.strerror(error.errno), str(scratch)) from error
        shutil.rmtree(scratch)
        return counts - Counter(record["status"] for record in before.values())

    def _captions_before(self, task: Task) -> dict[int, Record]:
        """The lines of images that are not tried again, by place in the shard."""
        job = self._job
        lines = [
            (place, one)
            for place, one in enumerate(records(job, task.shard))
            if not has_lost_caption(job, one)
        ]
        if task.again == "failed":
            lines = [(place, one) for place, one in lines if one["status"] in (OK, KEPT)]
        freed = set(freed_names(job.folder))
        return {
            place: one
            for place, one in lines
            if not was_changed(job, one)
            and not (one["status"] == SHARED and one["file_name"] in freed)
        }

    def _written(
        self,
        task: Task,
        before: dict[int, Record],
        announce: Announce,
        write: Callable[[Sample], str | None],
    ) -> Iterator[Record]:
        """The lines of a shard; its captioned images are written on the way."""
        job = self._job
        for place, (item, record) in enumerate(self._recorded(task, before, announce)):
            # An earlier caption file stays as it is: it may have been corrected by hand.
            if record["status"] == OK and not (
                place in before
                and job.has_caption_files
                and holds_text(found_caption_file(job, record["file_name"]))
            ):
                if isinstance(item, Refused):  # it had a caption, but the image is gone
                    record = refusal_line(self._job, item)
                elif problem := write(_sample(job, item, record)):
                    record = refusal_line(self._job, Refused(item.name, "unwritable", problem))
            yield record

    def _recorded(
        self, task: Task, before: dict[int, Record], announce: Announce
    ) -> Iterator[tuple[ImageInput | Refused, Record]]:
        """The images of a shard, in order, each with its line."""
        job = self._job
        if task.given_up:
            yield from self._given_up(task, task.given_up)
            return
        # Captions that were there before the job are none that it wrote.
        of_before = Replace.ALL if task.replace is Replace.ALL else Replace.NONE
        items = read_shard(
            job.source,
            job.kind,
            task.shard,
            job.folder,
            bytes_needed=job.images_needed,
            keeps=lambda name: self._is_kept(name, of_before),
        )
        begun = self._begun_ahead(items, before, task)
        first = 0
        while group := list(islice(begun, self._group)):
            pixels = {
                first + place: (item, work.result())
                for place, (item, work) in enumerate(group)
                if isinstance(work, Future) and isinstance(item, ImageInput)
            }
            made = self._captions(task, first, len(group), pixels, announce)
            for place, (item, work) in enumerate(group, start=first):
                yield item, made[place] if isinstance(work, Future) else work
            first += len(group)

    def _given_up(self, task: Task, how: str) -> Iterator[tuple[Refused, Record]]:
        """Lines of a shard that no process survives: one for each image if the number is known."""
        job, shard = self._job, task.shard
        message = (
            f"shard {shard.number}{f' ({shard.file})' if shard.file else ''} was given up: workers "
            f"that read it died {how} again and again"
        )
        names = [f"{shard.name}/{index:06d}" for index in range(shard.images or 1)]
        if job.kind == "folder":
            held = read_shard(job.source, "folder", shard, job.folder, bytes_needed=False)
            names = [one.name for one in held]
        for name in names:
            refused = Refused(name, "crashed", message)
            yield refused, refusal_line(self._job, refused)

    def _begun_ahead(
        self, items: Iterable[ImageInput | Refused], before: dict[int, Record], task: Task
    ) -> Iterator[tuple[ImageInput | Refused, Future[Pixels] | Record]]:
        """Images with their lines if these are known, or else with their decoding, which runs."""
        begun: deque[tuple[ImageInput | Refused, Future[Pixels] | Record]] = deque()
        for place, item in enumerate(items):
            if before and isinstance(item, Refused) and item.reason == NOT_FETCHED:
                raise _NotFetchedError
            # A shard in a store may hold other images than before.
            if place in before and before[place]["file_name"] == item.name:
                begun.append((item, before[place]))
            elif isinstance(item, Refused):
                begun.append((item, refusal_line(self._job, item)))
            elif place in task.crashed:
                begun.append((item, refusal_line(self._job, _crashed(item))))
            elif self._is_kept(item.name, task.replace):
                kept = Refused(item.name, KEPT, f"{printable(item.name)} has a caption already")
                begun.append((item, refusal_line(self._job, kept)))
            else:
                begun.append((item, self._decoder.begin(item)))
            if len(begun) > _AHEAD * self._group:
                yield begun.popleft()
        yield from begun

    def _is_kept(self, name: str, replace: Replace) -> bool:
        """Whether an image has a caption file that must stay."""
        if not self._job.has_caption_files:
            return False
        path = found_caption_file(self._job, name)
        return not may_replace(path, replace, self._records.of(path.parent))

    def _captions(
        self,
        task: Task,
        first: int,
        count: int,
        pixels: dict[int, tuple[ImageInput, Pixels]],
        announce: Announce,
    ) -> dict[int, Record]:
        """The lines of the images in a group, by place."""
        made = {
            place: refusal_line(self._job, one)
            for place, (_, one) in pixels.items()
            if isinstance(one, Refused)
        }
        work = [
            (place, image, one.pixels)
            for place, (image, one) in pixels.items()
            if not isinstance(one, Refused)
        ]
        sources = {
            place: one.source for place, (_, one) in pixels.items() if not isinstance(one, Refused)
        }
        settings = self._settings(task.shard, first)
        if first in task.suspects:
            for one in work:
                announce(one[0], 1)
                list(self._caption(settings, [one]))
        announce(first, count)
        for (place, *_), result in zip(work, self._caption(settings, work), strict=True):
            if isinstance(result, Refused):
                made[place] = refusal_line(self._job, result)
            else:
                made[place] = self._line(result) | sources[place]
        return made

    def _caption(
        self, settings: CaptionSettings, work: list[tuple[int, ImageInput, Picture]]
    ) -> Iterator[Captioned | Refused]:
        """One result for each image, in order."""

        def encode(part: list[tuple[int, ImageInput, Picture]]) -> list[Encoded]:
            pictures = [pixels for _, _, pixels in part]
            made = encode_pixels(self._model, pictures, settings.num_queries)
            return [
                Encoded(image, *one, number=place)
                for (place, image, _), one in zip(part, made, strict=True)
            ]

        encoded = (
            one for part in self._batches.of(work) for one in self._batches.run(encode, part)
        )
        return caption_encoded(
            self._model,
            encoded,
            settings,
            batch_size=self._batches,
            engine=self._engine,
            prompts=self._prompts,
        )

    def _settings(self, shard: Shard, first: int) -> CaptionSettings:
        """The job's settings; samples of each shard have their own seed, and samples of several
        beams of each group.
        """
        settings = self._job.captions
        if not settings.samples:
            return settings
        places = [shard.number, first] if settings.searches else [shard.number]
        sequence = np.random.SeedSequence([settings.seed, *places])
        return replace(settings, seed=int(sequence.generate_state(1, np.uint64)[0]))

    def _line(self, result: Captioned) -> Record:
        job = self._job
        surrounded = (surround(text, job.prepend, job.append) for text in result.texts)
        texts = [begun_with(job.trigger, text) for text in surrounded]
        return {
            "file_name": result.name,
            "status": OK,
            "text": texts[0],
            **({"texts": texts} if len(texts) > 1 else {}),
            "ended": result.ended,
            "tokens": result.tokens,
            "in_distribution": result.in_distribution,
        }


def _sample(job: Job, item: ImageInput, record: Record) -> Sample:
    """The sample that is written for a captioned image."""
    name = target_name(job, item.name)
    texts = {"texts": record["texts"]} if "texts" in record else {}
    return Sample(
        key=item.key,
        image=item.image if isinstance(item.image, bytes) else b"",
        extension=PurePosixPath(name).suffix,
        caption=record["text"],
        meta={**item.meta, "file_name": name, **texts},
    )


def _crashed(item: ImageInput) -> Refused:
    message = f"{printable(item.name)} killed the process that captioned it, again and again"
    return Refused(item.name, "crashed", message)
