"""What the routes have in common: one service, and what a request goes through in it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from vlv.serving.api.images import Images
from vlv.serving.api.schemas import Source
from vlv.serving.engine import Engine, Ticket
from vlv.serving.errors import ApiError
from vlv.serving.http.admission import Admission, Slot
from vlv.serving.metrics import Metrics
from vlv.serving.worker.jobs import (
    Caption,
    CaptionJob,
    DrawJob,
    Embeddings,
    EncodeJob,
    Info,
    Job,
    Marks,
    Pixels,
    Tokens,
    VerifyJob,
)


@dataclass(frozen=True)
class Service:
    """The parts of a running server."""

    engine: Engine
    images: Images
    admission: Admission
    metrics: Metrics

    def admit(self, size: int) -> Slot:
        """A slot for a request whose body is to have `size` bytes, before anything is done for it.

        Raises:
            ApiError: 429 or 503, there is none.
        """
        if self.engine.info is None:
            self.metrics.refused.labels("not_ready").inc()
            raise ApiError(503, "not_ready", "The model is still being loaded.")
        return self.admission.take(size)

    def enter(self, request: Request) -> "Visit":
        """A request that was let in, in its slot."""
        assert self.engine.info is not None
        return Visit(self, request, request.state.slot, self.engine.info)

    @property
    def not_ready(self) -> str | None:
        """Why no request should come here now; None if one may."""
        return "the server is stopping" if self.admission.draining else self.engine.reason


@dataclass(frozen=True)
class Visit:
    """A request with a slot; whatever it waits for is bounded by its deadline."""

    service: Service
    request: Request
    slot: Slot
    info: Info

    async def image(self, url: str, param: str = "image") -> Pixels:
        """The pixels of an image."""
        return await self.slot.within(self.service.images.pixels(url, self.info, param))

    async def both(self, url: str, param: str = "image") -> tuple[Pixels, Pixels]:
        """The pixels of an image, for the encoder and for the diffusion decoder."""
        return await self.slot.within(self.service.images.both(url, self.info, param))

    async def source(self, source: Source, param: str = "image") -> Pixels | Embeddings:
        """What the model is to look at."""
        if source.z is not None:
            return source.z.array(self.info)
        assert source.image is not None
        return await self.image(source.image, param)

    def held(self, source: Pixels | Embeddings) -> int:
        """How many embeddings there are of it."""
        return self.info.queries if source.dtype == np.uint8 else len(source)

    def submit(self, job: Job) -> Ticket:
        """Give a job to the engine; it is forgotten when the request ends."""
        ticket = self.service.engine.submit(job)
        self.request.state.held.callback(ticket.close)
        return ticket

    async def array(self, job: EncodeJob | DrawJob) -> NDArray[Any]:
        """The embeddings or the picture that a job gives."""
        result = await self.slot.within(self.submit(job).result())
        assert isinstance(result, np.ndarray)
        return result

    async def marks(self, job: VerifyJob) -> Marks:
        """What is said of the sentences of a caption."""
        result = await self.slot.within(self.submit(job).result())
        assert isinstance(result, tuple)
        return result

    async def caption(self, job: CaptionJob) -> Caption:
        """A whole caption."""
        async for piece in self.stream(job):
            if isinstance(piece, Caption):
                return piece
        raise AssertionError("a stream ends with its caption")

    async def stream(self, job: CaptionJob) -> AsyncIterator[Tokens | Caption]:
        """Pieces of a caption, if the job asks for them, and at last the whole."""
        if not self.info.can_caption:
            raise ApiError(501, "cannot_caption", "This model has no language model to write with.")
        ticket = self.submit(job)
        start = self.slot.until - self.service.admission.seconds
        first = True
        while True:
            event = await self.slot.within(ticket.next())
            if first and isinstance(event, Tokens):
                first = False
                now = asyncio.get_running_loop().time()
                self.service.metrics.first_token.observe(now - start)
            if isinstance(event, Caption):
                self.service.metrics.tokens.inc(event.tokens)
            assert isinstance(event, Tokens | Caption)
            yield event
            if isinstance(event, Caption):
                return
