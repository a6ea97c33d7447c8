"""Captions of a dataset by a teacher: many requests at a time, none of them twice.

Everything that is known of an image is in the ledger; a run asks only for what it lacks. Images
come from a stream, and a few more than are asked for at a time are in memory.
"""

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

from vlv.data.images import MAX_OWN_PIXELS, load_image
from vlv.data.recaptioning import Unusable
from vlv.data.samples import Sample
from vlv.data.teacher.answers import caption_in, problem_with
from vlv.data.teacher.budget import Budget
from vlv.data.teacher.endpoint import Answer, Endpoint, Rejected, Request, TryAgain, jpeg_for
from vlv.data.teacher.ledger import Ledger
from vlv.errors import ConfigError, DatasetError, ImageError
from vlv.text import printable

# Answers that are paid for one image before it is given up.
ATTEMPTS = 3
# Seconds: the first pause after a busy server, which doubles up to the last one.
_FIRST_PAUSE, _LAST_PAUSE = 1.0, 60.0
# Requests in a row that a server does not answer, over all images, before a run gives up.
_PATIENCE = 50
# Requests that it rejects before any is answered: then the reason is not the image.
_REJECTED_AT_FIRST = 5

NOT_ASKED = "not-asked"
"""The reason of an image that the end of a run left for the next one."""

Item = tuple[str, Sample | Unusable]
"""A name that is unique in the dataset, and what is there."""


@dataclass(frozen=True)
class Given:
    """What became of one image. `reason` and `message` say why it has no caption."""

    name: str
    caption: str | None = None
    reason: str | None = None
    message: str = ""


@dataclass
class TeacherRun:
    """One run over a dataset. `stop` ends it when what is on its way has come."""

    request: Request
    endpoint: Endpoint
    ledger: Ledger
    budget: Budget
    concurrency: int = 8
    attempts: int = ATTEMPTS
    first_pause: float = _FIRST_PAUSE
    problem_with: Callable[[Answer, str], str | None] = problem_with
    caption_in: Callable[[Answer], str] = caption_in
    stopped: str | None = None
    """Why the run asks for nothing more: a sentence."""
    signal: int | None = None
    """The number of the signal that stopped it."""
    _on_their_way: dict[str, "asyncio.Future[Given]"] = field(default_factory=dict)
    _quiet_until: float = 0.0
    _unanswered: int = 0
    _rejected: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self, why: str) -> None:
        """Ask for nothing more."""
        self.stopped = self.stopped or why
        self._news.set()

    async def captions(self, items: Iterator[Item]) -> AsyncIterator[Given]:
        """What became of each image, as answers come.

        Raises:
            ConfigError: the endpoint would answer no request.
            DatasetError: it has not answered for a long time.
        """
        tasks: set[asyncio.Task[Given]] = set()
        more = True
        try:
            while more or tasks:
                while more and len(tasks) < 2 * self.concurrency:
                    item = await asyncio.to_thread(next, items, None)
                    if item is None or self.stopped:
                        more = False
                        break
                    tasks.add(asyncio.create_task(self._one(*item)))
                if not tasks:
                    break
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, name: str, sample: Sample | Unusable) -> Given:
        if isinstance(sample, Unusable):
            return Given(name, reason=sample.reason, message=sample.message)
        image = image_hash(sample)
        while image in self._on_their_way:  # the same picture under another name
            await asyncio.wait([self._on_their_way[image]])
        if known := known_of(self.ledger, name, image):
            return known
        mine = self._on_their_way[image] = asyncio.get_running_loop().create_future()
        try:
            return await self._new(name, image, sample)
        finally:
            del self._on_their_way[image]
            mine.cancel()

    async def _new(self, name: str, image: str, sample: Sample) -> Given:
        try:
            jpeg = await asyncio.to_thread(_jpeg, sample.image, self.request.max_side)
        except ImageError as error:
            return Given(name, reason=error.reason, message=f"{name}: {error}")
        problem: str | None = None
        for attempt in range(self.ledger.attempts(image) + 1, self.attempts + 1):
            try:
                answer = await self._ask(self.request.body(jpeg, attempt))
            except Rejected as error:
                self.ledger.give_up(image, error.reason, str(error))
                return Given(name, reason=error.reason, message=f"{name}: {error}")
            if answer is None:
                return Given(name, reason=NOT_ASKED)
            problem = self.problem_with(answer, self.request.instruction)
            caption = self.caption_in(answer)
            self.ledger.write(image, attempt, answer, problem, caption)
            if problem is None:
                return Given(name, caption)
        reason = problem or "refusal"
        message = f"{name}: {self.attempts} answers are no caption (the last one: {reason})"
        self.ledger.give_up(image, reason, message)
        return Given(name, reason=reason, message=message)

    async def _ask(self, body: dict[str, object]) -> Answer | None:
        """An answer, however often it takes; None if the run ends before."""
        pause = self.first_pause
        while True:
            number = await self._reserved(int(str(body["max_tokens"])))
            if number is None:
                return None
            answer = None
            try:
                answer = await self.endpoint.ask(body)
                self._unanswered = 0
                if self.budget.cannot_count(answer):
                    self.stop("the server reports no tokens, so that no limit can be kept")
                return answer
            except TryAgain as error:
                self._missed(error)
                wait = max(error.after, random.uniform(0, pause))
                if error.after:  # everyone waits: the next request would be refused too
                    self._quiet_until = max(self._quiet_until, time.monotonic() + error.after)
                pause = min(2 * pause, _LAST_PAUSE)
            except Rejected as error:
                self._reject(error)
                raise
            finally:
                self.budget.settle(number, answer)
                self._wake()
            await self._sleep(wait)

    async def _reserved(self, max_tokens: int) -> int | None:
        """The number of what is set aside for a request; None if the run asks for nothing more."""
        while not self.stopped:
            if (quiet := self._quiet_until - time.monotonic()) > 0:
                await self._sleep(quiet)
            elif self.budget.on_their_way >= self.concurrency:
                await self._changed()
            elif (number := self.budget.reserve(max_tokens)) is not None:
                return number
            elif self.budget.on_their_way:
                await self._changed()
            else:
                self.stop(
                    "the budget is spent; raise --max-cost-usd or --max-total-tokens to go on"
                )
        return None

    def _missed(self, error: TryAgain) -> None:
        self._unanswered += 1
        if self._unanswered >= _PATIENCE:
            raise DatasetError(
                f"{_PATIENCE} requests in a row got no answer (the last one: {error}); everything "
                "until now is kept, and the same command goes on"
            ) from error

    def _reject(self, error: Rejected) -> None:
        self._rejected += 1
        if self.budget.spent.requests == 0 and self._rejected >= _REJECTED_AT_FIRST:
            raise ConfigError(
                f"the first {_REJECTED_AT_FIRST} requests were all rejected: {error}"
            ) from error

    def _wake(self) -> None:
        self._news.set()

    async def _changed(self) -> None:
        """Wait for an answer of another image, or for the end of the run."""
        self._news.clear()
        await self._news.wait()

    async def _sleep(self, seconds: float) -> None:
        """Wait, but not beyond the end of the run."""
        end = time.monotonic() + seconds
        while not self.stopped and (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 0.2))


def image_hash(sample: Sample) -> str:
    """By which the ledger knows an image."""
    return hashlib.sha256(sample.image).hexdigest()


def known_of(ledger: Ledger, name: str, image: str) -> Given | None:
    """What the ledger knows of an image."""
    if (found := ledger.caption(image)) is not None:
        return Given(name, found.caption)
    if (refused := ledger.refusal(image)) is not None:
        return Given(name, reason=refused[0], message=printable(refused[1]))
    return None


def _jpeg(image: bytes, max_side: int) -> bytes:
    return jpeg_for(load_image(image, max_pixels=MAX_OWN_PIXELS), max_side)
