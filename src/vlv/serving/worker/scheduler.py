"""Who works next: captions go on by a token, then other work by one pass through a network.

Nothing else is done between two tokens of the captions that are written than one such pass, and
after it the captions have at least as much time as it took. So a caption never waits for a drawing
or a check to end, and takes at most about twice as long beside any other work. Of the other kinds
of work, each with one batch at a time, the one that had the least time goes on. Jobs of a kind and
of equal settings that wait then run together (checks one by one), and one that nobody waits for any
more leaves its batch before the next pass. Within a kind, who came first goes first.
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
from vlv.serving.worker.continuous_batching import CaptionBatch, Row, Text
from vlv.serving.worker.cooperative import Sliced
from vlv.serving.worker.jobs import (
    Caption,
    CaptionJob,
    Command,
    Done,
    DrawJob,
    EncodeJob,
    Event,
    Failed,
    Job,
    Started,
    Submit,
    Tokens,
    VerifyJob,
)

# Positions that captions which join the batch may have together in one pass; a caption alone may
# have more.
_POSITIONS = 2048


@dataclass
class _Writing:
    """A caption in the making, its text, and how many of its tokens were told."""

    row: Row
    text: Text
    stream: bool
    told: int
    in_distribution: bool | None


@dataclass
class _Long:
    """A long computation, and its jobs in the order of its results; None for who has left."""

    ids: list[int | None]
    jobs: list[Any]
    work: Sliced[list[Any]]


class Scheduler:
    """Takes commands, does jobs by turns, and tells events.

    At most `max_batch` captions are written, and `max_pictures` drawn, at once.
    """

    def __init__(
        self, model: VLVModel, tell: Callable[[Event], None], max_batch: int, max_pictures: int
    ) -> None:
        self._model = model
        self._tell = tell
        self._max_batch = max_batch
        self._waiting: dict[int, Job] = {}
        self._batch: CaptionBatch | None = None
        self._writing: dict[int, _Writing] = {}
        self._joining: dict[int, Tensor] = {}  # of those written, c (Q,d) that is not read yet
        self._long: dict[str, _Long] = {}
        self._owed = 0.0  # seconds that captions are to have before other work goes on
        self._had: dict[str, float] = {}  # seconds of each other kind since it began to be busy
        self._computations = Computations(model)
        make = self._computations
        self._kinds: dict[str, tuple[int, Callable[[list[Any]], Sliced[list[Any]]]]] = {
            "encode": (max_batch, make.encode),
            "search": (max_batch, make.search),
            "picture": (max_pictures, make.draw),
            # Each check fills batches by itself.
            "verify": (1, lambda jobs: make.verify(jobs[0])),
        }

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._waiting or self._writing or self._long)

    def take(self, command: Command) -> None:
        """A new job, or one that nobody waits for any more."""
        if isinstance(command, Submit):
            job = command.job
            excess = self._computations.excess(job) if isinstance(job, VerifyJob) else None
            if excess is None:
                self._waiting[command.id] = job
            else:
                message = f"The caption has {excess}"
                self._tell(Failed(command.id, 400, "caption_too_long", message, "caption"))
        else:
            self._waiting.pop(command.id, None)
            self._forget({command.id})
            self._leave(command.id)

    def turn(self) -> None:
        """One step of the captions, and one pass of other work when it is due."""
        busy = self._busy("caption") or bool(self._writing)
        self._owed = self._owed - self._timed(self._go_on_with_captions) if busy else 0.0
        kind = self._most_patient()
        if kind is not None and self._owed <= 0:
            self._owed = self._timed(lambda: self._go_on(kind))
            self._had[kind] += self._owed

    def _most_patient(self) -> str | None:
        """The kind of other work that had the least time; one that was idle has no claim for it."""
        busy = [kind for kind in self._kinds if self._busy(kind)]
        least = min((self._had[kind] for kind in busy if kind in self._had), default=0.0)
        self._had = {kind: self._had.get(kind, least) for kind in busy}
        return min(busy, key=self._had.__getitem__, default=None)

    def _busy(self, kind: str) -> bool:
        return kind in self._long or any(
            _together(job)[0] == kind for job in self._waiting.values()
        )

    def _timed(self, step: Callable[[], None]) -> float:
        """The seconds of a step, and of what it had an accelerator do."""
        start = time.perf_counter()
        step()
        if self._model.device.type != "cpu":
            torch.accelerator.synchronize(self._model.device)
        return time.perf_counter() - start

    def _go_on_with_captions(self) -> None:
        self._read()
        self._join()
        if self._batch and self._batch.rows:
            self._batch.step()
            self._report()

    def _read(self) -> None:
        """One pass for captions that begin; those of one beam get a row each in the batch."""
        room = self._max_batch - len(self._writing)
        done = self._advanced("caption", room, self._computations.reading)
        if done is None:
            return
        for id, job, (c, in_distribution) in zip(
            done.ids, done.jobs, done.work.result(), strict=True
        ):
            if id is not None:
                self._writing[id] = _writing(id, job, self._model.caption_decoder, in_distribution)
                if not self._writing[id].row.finished:
                    self._joining[id] = c
        self._report()

    def _join(self) -> None:
        """One pass for captions whose sources were read: as many as make a short one."""
        self._batch = self._batch or CaptionBatch(self._model.caption_decoder)
        rows = [self._writing[id].row for id in self._joining]
        for _, group in groupby(rows, lambda row: (len(row.ids), len(self._joining[row.id]))):
            some = list(group)
            length = len(some[0].ids) + len(self._joining[some[0].id])
            some = some[: max(1, _POSITIONS // length)]
            self._batch.join(some, torch.stack([self._joining.pop(row.id) for row in some]))
            self._report()
            return

    def _report(self) -> None:
        finished = set()
        for one in self._writing.values():
            row, new = one.row, tuple(one.row.ids[one.told :])
            one.told += len(new)
            if one.stream and (new or row.finished):
                self._tell(Tokens(row.id, new, one.text.next(row.ids, row.finished)))
            if row.finished:
                text = one.text.whole(row.ids)
                caption = Caption(text, len(row.ids), row.ended, one.in_distribution)
                self._tell(Done(row.id, caption))
                finished.add(row.id)
        self._forget(finished)

    def _forget(self, ids: set[int]) -> None:
        if self._batch and not ids.isdisjoint(self._writing):
            self._batch.leave(ids)
        self._writing = {id: one for id, one in self._writing.items() if id not in ids}
        self._joining = {id: c for id, c in self._joining.items() if id not in ids}

    def _leave(self, id: int) -> None:
        """Take a job out of the long computation that it is part of."""
        for kind, long in list(self._long.items()):
            if id in long.ids:
                at = long.ids.index(id)
                long.ids[at] = None
                if long.work.leave(at):
                    del self._long[kind]

    def _go_on(self, kind: str) -> None:
        """One pass of a kind of other work."""
        long = self._advanced(kind, *self._kinds[kind])
        if long is None:
            return
        try:
            results = long.work.result()
        except VLVError as error:
            answers: list[Event] = [
                Failed(id, 400, "bad_request", str(error)) for id in long.ids if id is not None
            ]
        else:
            pairs = zip(long.ids, results, strict=True)
            answers = [Done(id, result) for id, result in pairs if id is not None]
        for answer in answers:
            self._tell(answer)

    def _advanced(
        self, kind: str, most: int, start: Callable[[list[Any]], Sliced[list[Any]]]
    ) -> _Long | None:
        """One pass of the long computation of a kind, which is returned when it is finished; the
        next one starts where there is none.
        """
        if kind not in self._long:
            jobs = self._next(kind, most)
            if not jobs:
                return None
            self._long[kind] = _Long(list(jobs), list(jobs.values()), start(list(jobs.values())))
        return self._long.pop(kind) if self._long[kind].work.advance() else None

    def _next(self, kind: str, most: int) -> dict[int, Any]:
        """The jobs of a kind that can be done together with the one that has waited longest."""
        keys = {id: _together(job) for id, job in self._waiting.items()}
        first = next((key for key in keys.values() if key[0] == kind), None)
        chosen = [id for id, key in keys.items() if key == first][:most]
        for id in chosen:
            self._tell(Started(id))
        return {id: self._waiting.pop(id) for id in chosen}


def _together(job: Job) -> tuple[Any, ...]:
    """The kind of a job, and what must be equal for jobs of that kind to be done as one."""
    if isinstance(job, EncodeJob):
        return ("encode",)
    if isinstance(job, VerifyJob):
        return ("verify",)
    if isinstance(job, DrawJob):
        kept = 0 if isinstance(job.source, str) else sum(part.keep for part in job.source)
        return ("picture", job.drawing, kept)
    if job.num_beams == 1:
        return ("caption",)
    limits = (job.num_beams, job.max_new_tokens, job.min_new_tokens)
    return ("search", *limits, job.source.shape)


def _writing(
    id: int, job: CaptionJob, caption_decoder: CaptionDecoder, in_distribution: bool | None
) -> _Writing:
    """A caption that begins, or goes on after what was told of it before."""
    row = Row(
        id,
        job.max_new_tokens,
        job.min_new_tokens,
        job.temperature,
        job.top_p,
        job.seed,
        list(job.written),
    )
    text = Text(caption_decoder)
    text.next(row.ids, row.finished)
    return _Writing(row, text, job.stream, len(row.ids), in_distribution)
