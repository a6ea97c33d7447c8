"""Decides which work runs next: captions advance by a token, other work by one forward pass.

Between two tokens of the captions in progress runs at most one pass of other work, and after it
captions get at least as much time as it took. So a caption never waits for the end of an image or a
verification, and takes at most about twice as long beside other work. Other work has several kinds,
each with one batch at a time; the kind that has used the least time advances. Waiting jobs of a
kind with equal settings run together (verifications one by one). A cancelled job leaves its batch
before the next pass. Within a kind, jobs run in the order of arrival.
"""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from vlv.errors import VLVError
from vlv.inference.engines.engine import CaptionEngine
from vlv.inference.engines.prompts import Prompts
from vlv.inference.engines.transformers import TransformersEngine
from vlv.models.vlv import VLVModel
from vlv.serving.telemetry import log_error
from vlv.serving.worker.captions import CaptionsInProgress
from vlv.serving.worker.computations import Computations
from vlv.serving.worker.cooperative import CooperativeTask
from vlv.serving.worker.jobs import (
    CaptionJob,
    Command,
    Done,
    EncodeJob,
    Event,
    Failed,
    ImageJob,
    Job,
    Started,
    Step,
    Submit,
    VerifyJob,
)

_FAILED = "The model failed on this request; the server's log says why."


@dataclass
class _RunningBatch:
    """A cooperative task, and its jobs in the order of its results; cancelled ones have no id."""

    ids: list[int | None]
    jobs: list[Any]
    task: CooperativeTask[list[Any]]


class Scheduler:
    """Takes commands, runs jobs by turns, and reports events.

    At most `max_batch` captions are written, and `max_pictures` images generated, at once. engine,
    prompts: what writes captions in place of the model's caption decoder. That has to be loaded
    already, if captions are to be written with it.

    Raises ConfigError for a caption decoder whose language model the engine here cannot run.
    """

    def __init__(
        self,
        model: VLVModel,
        report: Callable[[Event], None],
        max_batch: int,
        max_pictures: int,
        engine: CaptionEngine | None = None,
        prompts: Prompts | None = None,
    ) -> None:
        self._model = model
        self._report = report
        self._max_batch = max_batch
        self._waiting: dict[int, Job] = {}
        self._can_search = engine is None
        self._running: dict[str, _RunningBatch] = {}
        self._owed = 0.0  # seconds that captions get before other work advances
        self._used: dict[str, float] = {}  # seconds of each other kind since it became busy
        self._computations = compute = Computations(model)
        if engine is None and "caption_decoder" in model.loaded:
            engine = TransformersEngine(model.caption_decoder, max_batch)
            prompts = Prompts.of(model.caption_decoder)
        self._captions: CaptionsInProgress | None = None
        if engine is not None and prompts is not None:
            self._captions = CaptionsInProgress(engine, prompts, report)
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
        return not (self._waiting or self._writing or self._running)

    @property
    def _writing(self) -> int:
        """The number of captions in progress."""
        return 0 if self._captions is None else len(self._captions)

    def handle(self, command: Command) -> None:
        """Accept a new job, or cancel one."""
        if isinstance(command, Submit):
            self._accept(command.id, command.job)
        else:
            self._waiting.pop(command.id, None)
            if self._captions is not None:
                self._captions.cancel(command.id)
            self._cancel_in_batch(command.id)

    def _accept(self, id: int, job: Job) -> None:
        problem = self._computations.too_long(job) if isinstance(job, VerifyJob) else None
        if isinstance(job, CaptionJob) and job.num_beams > 1 and not self._can_search:
            message = "This server's engine has no beam search: send `num_beams` 1."
            self._report(Failed(id, 400, "bad_request", message, "num_beams"))
        elif problem is None:
            self._waiting[id] = job
        else:
            self._report(Failed(id, 400, "caption_too_long", problem, "caption"))

    def step(self) -> None:
        """Advance the captions by one token, and other work by one pass when it is due."""
        busy = self._busy("caption") or self._writing > 0
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
        if self._captions is not None:
            self._captions.step()

    def _encode_new_captions(self) -> None:
        """One pass of the encoder for captions that start."""
        done = self._advance("caption", self._max_batch - self._writing, self._computations.read)
        encoded = None if done is None else self._results(done)
        if done is None or encoded is None:
            return
        assert self._captions is not None  # a model without a caption decoder gets no such jobs
        for id, job, (c, known) in zip(done.ids, done.jobs, encoded, strict=True):
            if id is not None:
                self._captions.start(id, job, c, known)

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
        results = None if batch is None else self._results(batch)
        if batch is None or results is None:
            return
        for id, result in zip(batch.ids, results, strict=True):
            if id is not None:
                self._report(Done(id, result))

    def _results(self, batch: _RunningBatch) -> list[Any] | None:
        """The results of a finished batch; None if it failed, which is reported for its jobs.

        Raises torch.AcceleratorError: this process cannot use the device any more.
        """
        try:
            return batch.task.result()
        except VLVError as error:
            failure = 400, "bad_request", str(error)
        except torch.AcceleratorError:
            raise
        except Exception as error:
            log_error("computation failed", traceback=traceback.format_exception(error))
            failure = 500, "computation_failed", _FAILED
        for id in batch.ids:
            if id is not None:
                self._report(Failed(id, *failure))
        return None

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
        batch = self._running[kind]
        steps = batch.task.passes
        if batch.task.advance():
            return self._running.pop(kind)
        if batch.task.passes > steps:
            self._report_steps(batch)
        return None

    def _report_steps(self, batch: _RunningBatch) -> None:
        """Report a step of the sampler, which is one pass of the U-Net, where it was asked for."""
        for id, job in zip(batch.ids, batch.jobs, strict=True):
            if id is not None and job.stream:
                self._report(Step(id, batch.task.passes))

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
        return ("image", job.sampler, kept, job.late and job.late.start)
    if job.num_beams == 1:
        return ("caption",)
    limits = (job.num_beams, job.max_new_tokens, job.min_new_tokens, job.num_queries)
    return ("beam_search", *limits, job.source.shape)
