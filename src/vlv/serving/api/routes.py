"""The routes under `/v1/vlv`, and those that tell of the server itself."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from vlv.serving.api.context import Service, Visit
from vlv.serving.api.images import png_url
from vlv.serving.api.routing import EventStream
from vlv.serving.api.schemas import (
    CaptionAnswer,
    CaptionPiece,
    CaptionRequest,
    ComposeRequest,
    DrawSettings,
    ErrorBody,
    Health,
    ImageOnly,
    InfoAnswer,
    PictureAnswer,
    ReconstructRequest,
    SceneAnswer,
    SentenceAnswer,
    Source,
    VerifyAnswer,
    VerifyRequest,
    Z,
)
from vlv.serving.errors import ApiError
from vlv.serving.worker.jobs import (
    Caption,
    CaptionJob,
    Drawing,
    DrawJob,
    EncodeJob,
    Part,
    Tokens,
    VerifyJob,
)


class JsonRoute(APIRoute):
    """Takes the body that was read and parsed before a request came here."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As for any route, on that body."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(_Read(request.scope, request.receive))

        return handler


class _Read(Request):
    async def body(self) -> bytes:
        # Its text is not kept beside what it says.
        return b"{}" if "json" in self.scope["state"] else b""

    async def json(self) -> Any:
        return self.scope["state"]["json"]


router = APIRouter(route_class=JsonRoute)

_MEANINGS = {
    400: "The request is wrong; `param` names the field.",
    401: "The key is missing or wrong.",
    404: "There is no such model.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is not said to be JSON.",
    422: "The image was refused; `code` is the reason.",
    429: "The queue is full; come back after `Retry-After` seconds.",
    500: "The model failed on this request.",
    501: "The model cannot do this.",
    503: "The model is not loaded yet, or the server is stopping.",
    504: "The deadline passed.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI description: the errors of a route."""
    return {
        status: {"model": ErrorBody, "description": _MEANINGS[status]}
        for status in (400, 401, *statuses)
    }


WORK = errors(408, 413, 415, 422, 429, 500, 501, 503, 504)
_EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": _EVENT}}},
}
OUT_OF_DISTRIBUTION = {
    "X-VLV-Out-Of-Distribution": {
        "description": "Whether the image is unlike those of training; not on streams, and not "
        "where the model cannot tell.",
        "schema": {"type": "string", "enum": ["true", "false"]},
    }
}


def out_of_distribution(made: Caption) -> bool | None:
    """Whether the image of a caption is unlike those of training; None if that is not known."""
    return None if made.in_distribution is None else not made.in_distribution


def tell_distribution(response: Response, made: Caption) -> None:
    """Say it in a header too, for those who look at none but the caption."""
    unlike = out_of_distribution(made)
    if unlike is not None:
        response.headers["X-VLV-Out-Of-Distribution"] = str(unlike).lower()


def the_service(request: Request) -> Service:
    """The service that the app was made with."""
    service: Service = request.app.state.service
    return service


AService = Annotated[Service, Depends(the_service)]


@router.get("/health", tags=["server"], responses=errors())
async def health() -> Health:
    """The server answers."""
    return Health(status="ok")


@router.get(
    "/ready", tags=["server"], response_model=Health, responses={503: {"model": Health}, **errors()}
)
async def ready(service: AService) -> JSONResponse:
    """Whether the model answers; 503 with the reason while it does not."""
    reason = service.not_ready
    state = Health(status="not ready" if reason else "ok", reason=reason)
    return JSONResponse(state.model_dump(), 503 if reason else 200)


@router.get(
    "/metrics",
    tags=["server"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **errors()},
)
async def metrics(service: AService) -> Response:
    """Counters for Prometheus."""
    return Response(service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/vlv/info", tags=["vlv"], responses=errors(503))
async def info(service: AService) -> InfoAnswer:
    """What the model is and can do."""
    known = service.engine.info
    if known is None:
        raise ApiError(503, "not_ready", "The model is still being loaded.")
    return InfoAnswer.model_validate(known, from_attributes=True)


@router.get("/v1/vlv/scene", tags=["vlv"], responses=errors())
async def scene(seed: Annotated[int, Query(ge=0, lt=2**63)]) -> SceneAnswer:
    """A scene of the embedded world that the mini model was not trained on."""
    return await asyncio.to_thread(_scene, seed)


def _scene(seed: int) -> SceneAnswer:
    from vlv.world.captions import short_caption
    from vlv.world.render import render
    from vlv.world.scene import sample_scene

    found = sample_scene(seed, "test")
    caption = short_caption(found, np.random.default_rng(seed))
    return SceneAnswer(image=png_url(render(found)), caption=caption, seed=seed)


@router.post(
    "/v1/vlv/caption",
    tags=["vlv"],
    response_model=CaptionAnswer,
    responses={**WORK, 200: {**STREAM[200], "headers": OUT_OF_DISTRIBUTION}},
)
async def caption(
    asked: CaptionRequest, request: Request, response: Response, service: AService
) -> Any:
    """A caption of an image, or of embeddings.

    With `stream`, server-sent events: `{"text"}` for each piece, then the whole answer, then
    `[DONE]`.
    """
    visit = service.enter(request)
    job = CaptionJob(
        await visit.source(asked),
        asked.num_beams,
        asked.max_new_tokens,
        asked.min_new_tokens,
        asked.temperature,
        asked.top_p,
        asked.seed,
        asked.stream,
    )
    if not asked.stream:
        made = await visit.caption(job)
        tell_distribution(response, made)
        return _caption_answer(made)
    return await EventStream.begun(_caption_stream(visit, job))


async def _caption_stream(visit: Visit, job: CaptionJob) -> AsyncIterator[BaseModel]:
    async for piece in visit.stream(job):
        if isinstance(piece, Tokens):
            yield CaptionPiece(text=piece.text)
        else:
            yield _caption_answer(piece)


def _caption_answer(made: Caption) -> CaptionAnswer:
    return CaptionAnswer(
        caption=made.text,
        tokens=made.tokens,
        finish_reason="stop" if made.ended else "length",
        in_distribution=made.in_distribution,
        out_of_distribution=out_of_distribution(made),
    )


@router.post("/v1/vlv/verify", tags=["vlv"], responses=WORK)
async def verify(asked: VerifyRequest, request: Request, service: AService) -> VerifyAnswer:
    """Which sentences of a caption the image supports, as the diffusion decoder sees it."""
    visit = service.enter(request)
    if not visit.info.can_verify:
        raise ApiError(501, "cannot_verify", "This model has no verifier to check captions with.")
    source, picture = await visit.both(asked.image)
    marks = await visit.marks(VerifyJob(source, picture, asked.caption, asked.false_alarm_rate))
    return VerifyAnswer(
        sentences=[SentenceAnswer.model_validate(one, from_attributes=True) for one in marks],
        false_alarm_rate=asked.false_alarm_rate,
    )


@router.post("/v1/vlv/encode", tags=["vlv"], responses=WORK)
async def encode(asked: ImageOnly, request: Request, service: AService) -> Z:
    """The caption embeddings of an image."""
    visit = service.enter(request)
    return Z.of(await visit.array(EncodeJob(await visit.image(asked.image))))


@router.post("/v1/vlv/reconstruct", tags=["vlv"], responses=WORK)
async def reconstruct(
    asked: ReconstructRequest, request: Request, service: AService
) -> PictureAnswer:
    """A picture of an image's embeddings alone, or of a text."""
    visit = service.enter(request)
    if asked.text is not None:
        return await _draw(visit, asked, asked.text)
    source = await visit.source(Source(image=asked.image, z=asked.z))
    return await _draw(visit, asked, (Part(source, visit.held(source)),))


@router.post("/v1/vlv/compose", tags=["vlv"], responses=WORK)
async def compose(asked: ComposeRequest, request: Request, service: AService) -> PictureAnswer:
    """One picture out of the embeddings of two images."""
    visit = service.enter(request)
    parts = []
    for name, source, keep in (("a", asked.a, asked.keep_a), ("b", asked.b, asked.keep_b)):
        last = name == "b" and asked.order == "trailing"
        part = Part(await visit.source(source, name), keep, last)
        if keep > visit.held(part.source):
            raise ApiError(
                400,
                "too_many_kept",
                f"{name} has {visit.held(part.source)} embeddings, so {keep} cannot be kept.",
                f"keep_{name}",
            )
        parts.append(part)
    kept = asked.keep_a + asked.keep_b
    if not 0 < kept <= visit.info.max_keep:
        raise ApiError(
            400,
            "too_many_kept",
            f"keep_a + keep_b must be 1 to {visit.info.max_keep}, not {kept}.",
            "keep_b",
        )
    return await _draw(visit, asked, tuple(part for part in parts if part.keep))


async def _draw(visit: Visit, asked: DrawSettings, source: str | tuple[Part, ...]) -> PictureAnswer:
    if not visit.info.can_draw:
        raise ApiError(501, "cannot_draw", "This model has no U-Net and VAE to draw with.")
    if asked.num_inference_steps > visit.info.max_steps:
        raise ApiError(
            400,
            "too_many_steps",
            f"The model was trained with {visit.info.max_steps} steps; ask for at most as many.",
            "num_inference_steps",
        )
    drawing = Drawing(asked.guidance_scale, asked.num_inference_steps, asked.scheduler)
    picture = await visit.array(DrawJob(source, drawing, asked.seed))
    return PictureAnswer(image=png_url(picture), seed=asked.seed)
