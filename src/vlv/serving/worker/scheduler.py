"""Decides which work runs next: captions advance by a token, other work by one forward pass.

Between two tokens of the captions in progress runs at most one pass of other work, and after it
captions get at least as much time as it took. So a caption never waits for the end of an image or a
verification, and takes at most about twice as long beside other work. Other work has several kinds,
each with one batch at a time; the kind that has used the least time advances. Waiting jobs of a
kind with equal settings run together (verifications one by one). A cancelled job leaves its batch
before the next pass. Within a kind, jobs run in the order of arrival.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from vlv.errors import VLVError
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.vlv import VLVModel
from vlv.serving.worker.computations import Computations
from vlv.serving.worker.continuous_batching import CaptionBatch, Row, TextStreamer
from vlv.serving.worker.cooperative import CooperativeTask
from vlv.serving.worker.jobs import (
    CaptionJob,
    CaptionResult,
    Command,
    Done,
    EncodeJob,
    Event,
    Failed,
    ImageJob,
    Job,
    Started,
    Submit,
    Tokens,
    VerifyJob,
)

# Largest number of positions in one prefill pass of several captions; a single caption may have
# more.
_PREFILL_POSITIONS = 2048


@dataclass
class _CaptionInProgress:
    """A caption in progress, its text, and how many of its tokens were reported."""

    row: Row
    text: TextStreamer
    stream: bool
    reported: int
    in_distribution: bool | None


@dataclass
class _RunningBatch:
    """A cooperative task, and its jobs in the order of its results; cancelled ones have no id."""

    ids: list[int | None]
    jobs: list[Any]
    task: CooperativeTask[list[Any]]


class Scheduler:
    """Takes commands, runs jobs by turns, and reports events.

    At most `max_batch` captions are written, and `max_pictures` images generated, at once.
    """

    def __init__(
        self, model: VLVModel, report: Callable[[Event], None], max_batch: int, max_pictures: int
    ) -> None:
        self._model = model
        self._report = report
        self._max_batch = max_batch
        self._waiting: dict[int, Job] = {}
        self._batch: CaptionBatch | None = None
        self._captions: dict[int, _CaptionInProgress] = {}
        self._prefill: dict[int, Tensor] = {}  # c (Q,d) of captions that are not in the batch yet
        self._running: dict[str, _RunningBatch] = {}
        self._owed = 0.0  # seconds that captions get before other work advances
        self._used: dict[str, float] = {}  # seconds of each other kind since it became busy
        self._computations = compute = Computations(model)
        self._kinds: dict[str, tuple[int, Callable[[list[Any]], CooperativeTask[list[Any]]]]] = {
            "encode": (max_batch, compute.encode),
            "beam_search": (max_batch, compute.beam_search),
            "image": (max_pictures, compute.generate_images),
            # A verification fills batches by itself.
            "verify": (1, lambda jobs: compute.verify(jobs[0])),
        }

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._waiting or self._captions or self._running)

    def handle(self, command: Command) -> None:
        """Accept a new job, or cancel one."""
        if isinstance(command, Submit):
            self._accept(command.id, command.job)
        else:
            self._waiting.pop(command.id, None)
            self._remove_captions({command.id})
            self._cancel_in_batch(command.id)

    def _accept(self, id: int, job: Job) -> None:
        problem = self._computations.too_long(job) if isinstance(job, VerifyJob) else None
        if problem is None:
            self._waiting[id] = job
        else:
            self._report(Failed(id, 400, "caption_too_long", problem, "caption"))

    def step(self) -> None:
        """Advance the captions by one token, and other work by one pass when it is due."""
        busy = self._busy("caption") or bool(self._captions)
        self._owed = self._owed - self._timed(self._advance_captions) if busy else 0.0
        kind = self._least_served()
        if kind is not None and self._owed <= 0:
            self._owed = self._timed(lambda: self._advance_other(kind))
            self._used[kind] += self._owed

    def _least_served(self) -> str | None:
        """The kind of other work that has used the least time; idle time gives no claim."""
        busy = [kind for kind in self._kinds if self._busy(kind)]
        least = min((self._used[kind] for kind in busy if kind in self._used), default=0.0)
        self._used = {kind: self._used.get(kind, least) for kind in busy}
        return min(busy, key=self._used.__getitem__, default=None)

    def _busy(self, kind: str) -> bool:
        return kind in self._running or any(
            _batch_key(job)[0] == kind for job in self._waiting.values()
        )

    def _timed(self, step: Callable[[], None]) -> float:
        """The seconds of a step, including the accelerator's work for it."""
        start = time.perf_counter()
        step()
        if self._model.device.type != "cpu":
            torch.accelerator.synchronize(self._model.device)
        return time.perf_counter() - start

    def _advance_captions(self) -> None:
        self._encode_new_captions()
        self._prefill_captions()
        if self._batch and self._batch.rows:
            self._batch.step()
            self._report_captions()

    def _encode_new_captions(self) -> None:
        """One pass of the encoder for captions that start."""
        room = self._max_batch - len(self._captions)
        done = self._advance("caption", room, self._computations.read)
        if done is None:
            return
        results = zip(done.ids, done.jobs, done.task.result(), strict=True)
        for id, job, (c, in_distribution) in results:
            if id is not None:
                caption = _start_caption(id, job, self._model.caption_decoder, in_distribution)
                self._captions[id] = caption
                if not caption.row.finished:
                    self._prefill[id] = c
        self._report_captions()

    def _prefill_captions(self) -> None:
        """One prefill pass, with as many of the encoded captions as make a short one."""
        self._batch = self._batch or CaptionBatch(self._model.caption_decoder)
        rows = [self._captions[id].row for id in self._prefill]
        for _, group in groupby(rows, lambda row: (len(row.ids), len(self._prefill[row.id]))):
            some = list(group)
            length = len(some[0].ids) + len(self._prefill[some[0].id])
            some = some[: max(1, _PREFILL_POSITIONS // length)]
            self._batch.add(some, torch.stack([self._prefill.pop(row.id) for row in some]))
            self._report_captions()
            return

    def _report_captions(self) -> None:
        """Report the new tokens of streamed captions, and finished captions."""
        finished = set()
        for one in self._captions.values():
            row, new = one.row, tuple(one.row.ids[one.reported :])
            one.reported += len(new)
            if (one.stream or row.rules.stop) and (new or row.finished):
                text = one.text.next(row.ids, row.finished)
                row.ended |= one.text.stopped
                if one.stream:
                    self._report(Tokens(row.id, new, text))
            if row.finished:
                caption = self._computations.caption_of(row.ids, row.ended, row.rules)
                self._report(Done(row.id, CaptionResult(caption, one.in_distribution)))
                finished.add(row.id)
        self._remove_captions(finished)

    def _remove_captions(self, ids: set[int]) -> None:
        if self._batch and not ids.isdisjoint(self._captions):
            self._batch.remove(ids)
        self._captions = {id: one for id, one in self._captions.items() if id not in ids}
        self._prefill = {id: c for id, c in self._prefill.items() if id not in ids}

    def _cancel_in_batch(self, id: int) -> None:
        """Cancel a job in the running batch that it is part of."""
        for kind, batch in list(self._running.items()):
            if id in batch.ids:
                index = batch.ids.index(id)
                batch.ids[index] = None
                if batch.task.cancel(index):
                    del self._running[kind]

    def _advance_other(self, kind: str) -> None:
        """One pass of a kind of other work; its results are reported when it is finished."""
        batch = self._advance(kind, *self._kinds[kind])
        if batch is None:
            return
        try:
            results = batch.task.result()
        except VLVError as error:
            events: list[Event] = [
                Failed(id, 400, "bad_request", str(error)) for id in batch.ids if id is not None
            ]
        else:
            pairs = zip(batch.ids, results, strict=True)
            events = [Done(id, result) for id, result in pairs if id is not None]
        for event in events:
            self._report(event)

    def _advance(
        self,
        kind: str,
        max_jobs: int,
        start: Callable[[list[Any]], CooperativeTask[list[Any]]],
    ) -> _RunningBatch | None:
        """One pass of the running batch of a kind; starts the next batch if none is running.

        Returns the batch if it is finished.
        """
        if kind not in self._running:
            jobs = self._next_jobs(kind, max_jobs)
            if not jobs:
                return None
            task = start(list(jobs.values()))
            self._running[kind] = _RunningBatch(list(jobs), list(jobs.values()), task)
        return self._running.pop(kind) if self._running[kind].task.advance() else None

    def _next_jobs(self, kind: str, max_jobs: int) -> dict[int, Any]:
        """The jobs of a kind that can run in one batch with the one that has waited longest."""
        keys = {id: _batch_key(job) for id, job in self._waiting.items()}
        first = next((key for key in keys.values() if key[0] == kind), None)
        selected = [id for id, key in keys.items() if key == first][:max_jobs]
        for id in selected:
            self._report(Started(id))
        return {id: self._waiting.pop(id) for id in selected}


def _batch_key(job: Job) -> tuple[Any, ...]:
    """The kind of a job, and the settings that must be equal within one batch."""
    if isinstance(job, EncodeJob):
        return ("encode",)
    if isinstance(job, VerifyJob):
        return ("verify",)
    if isinstance(job, ImageJob):
        kept = 0 if isinstance(job.source, str) else sum(part.keep for part in job.source)
        return ("image", job.sampler, kept)
    if job.num_beams == 1:
        return ("caption",)
    limits = (job.num_beams, job.max_new_tokens, job.min_new_tokens)
    return ("beam_search", *limits, job.source.shape)


def _start_caption(
    id: int, job: CaptionJob, caption_decoder: CaptionDecoder, in_distribution: bool | None
) -> _CaptionInProgress:
    """A caption that starts, or that continues after the tokens that were reported before."""
    row = Row(
        id,
        job.max_new_tokens,
        job.min_new_tokens,
        job.temperature,
        job.top_p,
        job.seed,
        list(job.written),
        job.rules,
    )
    text = TextStreamer(caption_decoder, job.rules.stop)
    text.next(row.ids, row.finished)
    row.ended |= text.stopped
    return _CaptionInProgress(row, text, job.stream, len(row.ids), in_distribution)
