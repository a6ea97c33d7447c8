"""Captions of a dataset by a teacher: each image is a question, asked once.

Everything that is known of an image is in the ledger, by the hash of its file.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from vlv.data.images import MAX_OWN_PIXELS, load_image
from vlv.data.lenient import Unusable
from vlv.data.samples import Sample
from vlv.data.teacher.answers import caption_in, problem_with
from vlv.data.teacher.request import Request
from vlv.endpoints.asking import (
    ATTEMPTS,
    AskingRun,
    Body,
    Outcome,
    known_outcome,
)
from vlv.endpoints.budget import Budget
from vlv.endpoints.endpoint import Answer, Endpoint, jpeg_for
from vlv.endpoints.ledger import Ledger

Item = tuple[str, Sample | Unusable]
"""A name that is unique in the dataset, and what is there."""


@dataclass(frozen=True)
class Given:
    """What became of one image. `reason` and `message` say why it has no caption."""

    name: str
    caption: str | None = None
    reason: str | None = None
    message: str = ""


class TeacherRun(AskingRun):
    """One run over a dataset. `stop` ends it when what is on its way has come."""

    def __init__(
        self,
        request: Request,
        endpoint: Endpoint,
        ledger: Ledger,
        budget: Budget,
        concurrency: int,
        attempts: int = ATTEMPTS,
        problem_with: Callable[[Answer, str], str | None] = problem_with,
        caption_in: Callable[[Answer], str] = caption_in,
    ) -> None:
        super().__init__(endpoint, ledger, budget, concurrency, attempts)
        self._request = request
        self._problem_with = problem_with
        self._caption_in = caption_in

    async def captions(self, items: Iterator[Item]) -> AsyncIterator[Given]:
        """What became of each image, as answers come.

        Raises:
            ConfigError: the endpoint would answer no request.
            DatasetError: it has not answered for a long time.
        """
        async for one in self.answers(map(self._question, items)):
            yield Given(one.name, one.value, one.reason, one.message)

    def _question(self, item: Item) -> "_Question | Outcome":
        name, sample = item
        if isinstance(sample, Unusable):
            return Outcome(name, reason=sample.reason, message=sample.message)
        return _Question(name, sample, self._request, self._problem_with, self._caption_in)


@dataclass(frozen=True)
class _Question:
    name: str
    sample: Sample
    request: Request
    problem_with: Callable[[Answer, str], str | None]
    caption_in: Callable[[Answer], str]

    @property
    def key(self) -> str:
        return image_hash(self.sample)

    def prepare(self) -> Body:
        jpeg = _jpeg(self.sample.image, self.request.max_side)
        return lambda attempt: self.request.body(jpeg, attempt)

    def read(self, answer: Answer) -> tuple[str | None, str]:
        problem = self.problem_with(answer, self.request.instruction)
        return problem, self.caption_in(answer)


def image_hash(sample: Sample) -> str:
    """By which the ledger knows an image."""
    return hashlib.sha256(sample.image).hexdigest()


def known_of(ledger: Ledger, name: str, image: str) -> Given | None:
    """What the ledger knows of an image."""
    known = known_outcome(ledger, name, image)
    if known is None:
        return None
    return Given(known.name, known.value, known.reason, known.message)


def _jpeg(image: bytes, max_side: int) -> bytes:
    return jpeg_for(load_image(image, max_pixels=MAX_OWN_PIXELS), max_side)
