"""Who works next: every turn, each kind of work goes on by one step.

A turn is: images that wait are encoded, as far as there is room; every caption in the batch gets
its next token; the running beam search makes one step; the running drawing makes one denoising
step; the running check of a caption makes one pass through the U-Net. So a caption never waits for
a drawing to end, nor a drawing for a row of captions. Beam searches, drawings and checks wait for
the one of their kind that runs; those of equal settings that wait then run together (checks one by
one), and one that nobody waits for any more leaves its batch before the next step. Within a kind,
who came first goes first.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlv.errors import VLVError
from vlv.inference.encoding import encode_pixels
from vlv.inference.verification import why
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.verifier import SentenceSupport
from vlv.models.vlv import VLV
from vlv.serving.decoding import CaptionBatch, Row, Text
from vlv.serving.jobs import (
    Caption,
    CaptionJob,
    Command,
    Done,
    DrawJob,
    Embeddings,
    EncodeJob,
    Event,
    Failed,
    Job,
    Mark,
    Part,
    Pixels,
    Result,
    Started,
    Submit,
    Tokens,
    VerifyJob,
)
from vlv.serving.leaving import Pictures, Searches
from vlv.serving.slices import Sliced


@dataclass
class _Writing:
    """A caption in the making, its text, and how many of its tokens were told."""

    row: Row
    text: Text
    stream: bool
    told: int
    familiar: bool | None


@dataclass
class _Long:
    """A long computation, and whom its results are for in their order; None for who has left."""

    ids: list[int | None]
    work: Sliced[list[Result]]


class Scheduler:
    """Takes commands, does jobs by turns, and tells events.

    At most `max_batch` captions are written, and `max_pictures` drawn, at once.
    """

    def __init__(
        self, model: VLV, tell: Callable[[Event], None], max_batch: int, max_pictures: int
    ) -> None:
        self._model = model
        self._tell = tell
        self._max_batch = max_batch
        self._max_pictures = max_pictures
        self._waiting: dict[int, Job] = {}
        self._batch: CaptionBatch | None = None
        self._writing: dict[int, _Writing] = {}
        self._long: dict[str, _Long] = {}

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._waiting or self._writing or self._long)

    def take(self, command: Command) -> None:
        """A new job, or one that nobody waits for any more."""
        if isinstance(command, Submit):
            self._waiting[command.id] = command.job
        else:
            self._waiting.pop(command.id, None)
            self._forget({command.id})
            self._leave(command.id)

    def turn(self) -> None:
        """One step of each kind of work."""
        self._encode()
        self._join()
        self._write()
        self._advance("search", self._start_search)
        self._advance("picture", self._start_picture)
        self._advance("verify", self._start_verify)

    def _encode(self) -> None:
        jobs = self._next("encode", self._max_batch)
        for id, z in zip(jobs, self._z([job.source for job in jobs.values()]), strict=True):
            self._tell(Done(id, z.float().numpy(force=True)))

    def _join(self) -> None:
        """Captions of one beam get a row each in the running batch."""
        jobs = self._next("caption", self._max_batch - len(self._writing))
        if not jobs:
            return
        self._batch = self._batch or CaptionBatch(self._model.captioner)
        z, familiar = zip(*self._seen([job.source for job in jobs.values()]), strict=True)
        new = [
            _writing(id, job, self._model.captioner, known)
            for (id, job), known in zip(jobs.items(), familiar, strict=True)
        ]
        self._writing |= {one.row.id: one for one in new}
        unfinished = [pair for pair in zip(new, z, strict=True) if not pair[0].row.finished]
        for _, group in groupby(unfinished, lambda pair: (len(pair[0].row.ids), len(pair[1]))):
            some, theirs = zip(*group, strict=True)
            self._batch.join([one.row for one in some], self._model.read(torch.stack(theirs)))
        self._report()

    def _write(self) -> None:
        if self._batch and self._writing:
            self._batch.step()
            self._report()

    def _report(self) -> None:
        finished = set()
        for one in self._writing.values():
            row, new = one.row, tuple(one.row.ids[one.told :])
            one.told += len(new)
            if one.stream and (new or row.finished):
                self._tell(Tokens(row.id, new, one.text.next(row.ids, row.finished)))
            if row.finished:
                text = one.text.whole(row.ids)
                caption = Caption(text, len(row.ids), row.ended, one.familiar)
                self._tell(Done(row.id, caption))
                finished.add(row.id)
        self._forget(finished)

    def _forget(self, ids: set[int]) -> None:
        if self._batch and not ids.isdisjoint(self._writing):
            self._batch.leave(ids)
            self._writing = {id: one for id, one in self._writing.items() if id not in ids}

    def _leave(self, id: int) -> None:
        """Take a job out of the long computation that it is part of."""
        for kind, long in list(self._long.items()):
            if id in long.ids:
                at = long.ids.index(id)
                long.ids[at] = None
                if long.work.leave(at):
                    del self._long[kind]

    def _advance(self, kind: str, start: Callable[[list[Any]], Sliced[list[Result]]]) -> None:
        """One step of the long computation of a kind; the next one starts where there is none."""
        if kind not in self._long:
            jobs = self._next(kind, self._most(kind))
            if not jobs:
                return
            self._long[kind] = _Long(list(jobs), start(list(jobs.values())))
        long = self._long[kind]
        if not long.work.advance():
            return
        del self._long[kind]
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

    def _most(self, kind: str) -> int:
        """How many jobs of a kind are done at once; each check fills a batch by itself."""
        return {"picture": self._max_pictures, "verify": 1}.get(kind, self._max_batch)

    def _start_verify(self, jobs: list[VerifyJob]) -> Sliced[list[Result]]:
        (job,) = jobs
        (z,) = self._z([job.source])

        def verify() -> list[Result]:
            picture = Image.fromarray(job.picture)
            rate = job.false_alarm_rate
            marks = self._model.verify(picture, job.caption, z=z[None], false_alarm_rate=rate)
            return [tuple(_mark(job.caption, one) for one in marks)]

        return Sliced(verify, [self._model.decoder.unet], Pictures(1))

    def _start_search(self, jobs: list[CaptionJob]) -> Sliced[list[Result]]:
        z, familiar = zip(*self._seen([job.source for job in jobs]), strict=True)
        captioner, first = self._model.captioner, jobs[0]

        def search() -> list[Result]:
            made = captioner.generate(
                self._model.read(torch.stack(z)),
                num_beams=first.num_beams,
                max_new_tokens=first.max_new_tokens,
                min_new_tokens=first.min_new_tokens,
            )
            pairs = zip(made, familiar, strict=True)
            return [Caption(one.text, one.tokens, one.ended, known) for one, known in pairs]

        end = int(captioner.tokenizer.eos_token_id)
        return Sliced(search, [captioner.lm], Searches(len(jobs), end))

    def _start_picture(self, jobs: list[DrawJob]) -> Sliced[list[Result]]:
        settings: dict[str, Any] = asdict(jobs[0].drawing)
        settings |= {"seeds": [job.seed for job in jobs], "batch_size": len(jobs)}
        texts = [job.source for job in jobs if isinstance(job.source, str)]
        z = [self._joined(job.source) for job in jobs if not isinstance(job.source, str)]

        def draw() -> list[Result]:
            if texts:
                drawn = self._model.draw(texts, **settings)
            else:
                drawn = self._model.reconstruct(torch.stack(z), **settings)
            return [np.asarray(picture) for picture in drawn.images]

        decoder = self._model.decoder
        return Sliced(draw, [decoder.unet, decoder.vae.decoder], Pictures(len(jobs)))

    def _joined(self, parts: Sequence[Part]) -> Tensor:
        z = self._z([part.source for part in parts])
        return torch.cat(
            [
                one[-part.keep :] if part.last else one[: part.keep]
                for one, part in zip(z, parts, strict=True)
            ]
        )

    def _z(self, sources: Sequence[Pixels | Embeddings]) -> list[Tensor]:
        """Embeddings z (Q,d) of each source."""
        return [z for z, _ in self._seen(sources)]

    def _seen(self, sources: Sequence[Pixels | Embeddings]) -> list[tuple[Tensor, bool | None]]:
        """Z (Q,d) of each source, and of images whether they are familiar; all images go through
        the encoder together.
        """
        images: list[Any] = [one for one in sources if one.dtype == np.uint8]
        encoded = iter(encode_pixels(self._model, images) if images else ())
        device, dtype = self._model.device, self._model.dtype
        return [
            next(encoded)
            if one.dtype == np.uint8
            else (torch.from_numpy(one).to(device, dtype), None)
            for one in sources
        ]

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


def _mark(caption: str, one: SentenceSupport) -> Mark:
    better = None if one.better is None else why(caption, one)
    return Mark(
        one.text,
        one.start,
        one.end,
        one.score,
        one.probability,
        one.supported,
        better,
        one.verdict,
        one.reason,
    )


def _writing(
    id: int, job: CaptionJob, captioner: CaptionDecoder, familiar: bool | None
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
    text = Text(captioner)
    text.next(row.ids, row.finished)
    return _Writing(row, text, job.stream, len(row.ids), familiar)
