"""The service that all routes share, and the context of one request in it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from vlv.serving.api.generation import ImageAt, check_count
from vlv.serving.api.images import ImageReader
from vlv.serving.api.schemas import Source
from vlv.serving.engine import Engine, JobHandle
from vlv.serving.errors import ApiError
from vlv.serving.http.admission import Admission, Slot
from vlv.serving.http.keys import ApiKey, Quotas
from vlv.serving.telemetry import Metrics
from vlv.serving.worker.jobs import (
    CaptionJob,
    CaptionResult,
    Embeddings,
    EncodeJob,
    ImageJob,
    Job,
    ModelInfo,
    Pixels,
    Step,
    Tokens,
    Verdicts,
    VerifyJob,
)


@dataclass(frozen=True)
class Service:
    """The parts of a running server."""

    engine: Engine
    images: ImageReader
    admission: Admission
    metrics: Metrics
    quotas: Quotas

    @property
    def info(self) -> ModelInfo:
        """Facts about the model.

        Raises:
            ApiError: 503, it is still being loaded.
        """
        if self.engine.info is None:
            raise _still_loading()
        return self.engine.info

    def admit(self, size: int, key: ApiKey | None) -> Slot:
        """A slot for a request whose body has `size` bytes, before anything is done for it.

        A request that there is no slot for is not counted for its key.

        Raises:
            ApiError: 429 or 503, there is none, or the key has sent too many requests.
        """
        if self.engine.info is None:
            self.metrics.refused.labels("not_ready").inc()
            raise _still_loading()
        self.admission.check(size)
        if key is not None:
            try:
                self.quotas.take_request(key)
            except ApiError:
                self.metrics.refused.labels("rate_limit").inc()
                raise
        return self.admission.admit()

    def context(self, request: Request) -> "RequestContext":
        """The context of a request that was admitted."""
        return RequestContext(self, request, request.state.slot, self.info)

    @property
    def not_ready(self) -> str | None:
        """Why no request should be sent here now; None if one may."""
        return "the server is stopping" if self.admission.draining else self.engine.reason


def _still_loading() -> ApiError:
    return ApiError(503, "not_ready", "The model is still being loaded.")


@dataclass(frozen=True)
class RequestContext:
    """A request with a slot; all that it waits for ends at the slot's deadline."""

    service: Service
    request: Request
    slot: Slot
    info: ModelInfo

    async def image(self, url: str, param: str = "image") -> Pixels:
        """The pixels of an image for the encoder."""
        (pixels,) = await self.images([ImageAt(url, param)])
        return pixels

    async def images(self, images: Sequence[ImageAt], answers: int = 1) -> list[Pixels]:
        """The pixels of the images of a request for captions, of which it wants so many answers.

        Raises:
            ApiError: 400, there are too many, and none is decoded or counted; or the key has not
                that many left, or an image is refused.
        """
        check_count(len(images), answers)
        self._count_images(len(images))
        return [await self._decoded(url, param) for url, param in images]

    async def image_to_verify(self, url: str) -> tuple[Pixels, Pixels]:
        """The pixels of an image, for the encoder and for the diffusion decoder."""
        self._count_images(1)
        return await self.slot.within(self.service.images.for_verification(url, self.info))

    async def _decoded(self, url: str, param: str) -> Pixels:
        return await self.slot.within(self.service.images.for_encoder(url, self.info, param))

    def _count_images(self, count: int) -> None:
        """Count all images of the request for its key, before the first is decoded.

        Raises:
            ApiError: 429, the key has not that many left of this day.
        """
        key: ApiKey | None = getattr(self.request.state, "key", None)
        if key is not None:
            self.service.quotas.take_images(key, count)
            self.service.metrics.key_images.labels(key.name).inc(count)

    async def source(self, source: Source) -> Pixels | Embeddings:
        """The pixels or the embeddings that a request contains."""
        (one,) = await self.sources(image=source)
        return one

    async def sources(self, **named: Source) -> list[Pixels | Embeddings]:
        """The pixels or the embeddings of several sources, by the names of their fields."""
        self._count_images(sum(one.z is None for one in named.values()))
        return [await self._read(one, param) for param, one in named.items()]

    async def _read(self, source: Source, param: str) -> Pixels | Embeddings:
        if source.z is not None:
            return source.z.array(self.info)
        assert source.image is not None
        return await self._decoded(source.image, param)

    def tokens_read(self, images: int) -> int:
        """Embeddings that the language model reads for so many images, as clients count tokens."""
        return self.info.queries * images

    def embedding_count(self, source: Pixels | Embeddings) -> int:
        """Number of embeddings of a source."""
        return self.info.queries if source.dtype == np.uint8 else len(source)

    def submit(self, job: Job) -> JobHandle:
        """Submit a job to the engine; it is cancelled when the request ends."""
        handle = self.service.engine.submit(job)
        self.request.state.resources.callback(handle.close)
        return handle

    async def release(self) -> None:
        """Release the slot and cancel unfinished jobs, before the end of the response is sent."""
        await self.request.state.resources.aclose()

    async def array(self, job: EncodeJob | ImageJob) -> NDArray[Any]:
        """The embeddings or the image that a job gives."""
        result = await self.slot.within(self.submit(job).result())
        assert isinstance(result, np.ndarray)
        return result

    async def image_events(self, job: ImageJob) -> AsyncIterator[Step | NDArray[Any]]:
        """The steps of an image, if the job asks for them, then the image."""
        handle = self.submit(job)
        while isinstance(event := await self.slot.within(handle.next()), Step):
            yield event
        assert isinstance(event, np.ndarray)
        yield event

    async def verdicts(self, job: VerifyJob) -> Verdicts:
        """The verdicts on the sentences of a caption."""
        result = await self.slot.within(self.submit(job).result())
        assert isinstance(result, tuple)
        return result

    async def caption(self, job: CaptionJob) -> CaptionResult:
        """A whole caption."""
        async for piece in self.stream(job):
            if isinstance(piece, CaptionResult):
                return piece
        raise AssertionError("a stream ends with its caption")

    def stream(self, job: CaptionJob) -> AsyncIterator[Tokens | CaptionResult]:
        """Pieces of a caption, if the job asks for them, then the whole caption."""
        return self.caption_events(self.start_caption(job))

    def start_caption(self, job: CaptionJob) -> JobHandle:
        """Submit a caption.

        Raises:
            ApiError: 501, the model writes none.
        """
        if not self.info.can_caption:
            raise ApiError(501, "cannot_caption", "This model has no language model to write with.")
        return self.submit(job)

    async def caption_events(self, handle: JobHandle) -> AsyncIterator[Tokens | CaptionResult]:
        """Pieces of a caption that was started, if the job asks for them, then the whole one."""
        while True:
            event = await self.slot.within(handle.next())
            assert isinstance(event, Tokens | CaptionResult)
            if isinstance(event, Tokens):
                self._observe_first_token()
                yield event
                continue
            self.service.metrics.tokens.inc(event.caption.tokens)
            yield event
            return

    def _observe_first_token(self) -> None:
        """Measure the time to the first text of the request."""
        if getattr(self.request.state, "has_text", False):
            return
        self.request.state.has_text = True
        start = self.slot.until - self.service.admission.seconds
        self.service.metrics.first_token.observe(asyncio.get_running_loop().time() - start)
