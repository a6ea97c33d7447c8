"""The routes under `/v1/vlv`, and those about the server itself."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from vlv.serving.api.answers import Answer, set_headers
from vlv.serving.api.context import RequestContext
from vlv.serving.api.images import png_data_url
from vlv.serving.api.openapi import JOB_ERRORS, OOD_HEADERS, error_responses, stream_or_json
from vlv.serving.api.routing import JsonRoute, ServiceDependency
from vlv.serving.api.schemas import (
    CaptionAnswer,
    CaptionPiece,
    CaptionRequest,
    ComposeRequest,
    DrawingStep,
    EncodeRequest,
    Health,
    ImageAnswer,
    InfoAnswer,
    ReconstructRequest,
    SamplingFields,
    SceneAnswer,
    SentenceAnswer,
    Source,
    VerifyAnswer,
    VerifyRequest,
    Z,
)
from vlv.serving.api.streams import stream_response
from vlv.serving.errors import ApiError
from vlv.serving.worker.jobs import (
    CaptionJob,
    CaptionResult,
    Embeddings,
    EncodeJob,
    ImageJob,
    KeptEmbeddings,
    LateCaption,
    Pixels,
    SamplerSettings,
    Step,
    Tokens,
    VerifyJob,
)

router = APIRouter(route_class=JsonRoute)


@router.get("/health", tags=["server"], responses=error_responses())
async def health() -> Health:
    """Whether the server responds."""
    return Health(status="ok")


@router.get(
    "/ready",
    tags=["server"],
    response_model=Health,
    responses={503: {"model": Health}, **error_responses()},
)
async def ready(service: ServiceDependency) -> JSONResponse:
    """Whether the model is ready; 503 with the reason if it is not."""
    reason = service.not_ready
    state = Health(status="not ready" if reason else "ok", reason=reason)
    return JSONResponse(state.model_dump(), 503 if reason else 200)


@router.get(
    "/metrics",
    tags=["server"],
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **error_responses(),
    },
)
async def metrics(service: ServiceDependency) -> Response:
    """Metrics in Prometheus' format."""
    return Response(service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/vlv/info", tags=["vlv"], responses=error_responses(503))
async def info(service: ServiceDependency) -> InfoAnswer:
    """The model, and what it can do."""
    return InfoAnswer.model_validate(service.info, from_attributes=True)


@router.get("/v1/vlv/scene", tags=["vlv"], responses=error_responses())
async def scene(seed: Annotated[int, Query(ge=0, lt=2**63)]) -> SceneAnswer:
    """A scene of the embedded world that the mini model was not trained on."""
    return await asyncio.to_thread(_sample_scene, seed)


def _sample_scene(seed: int) -> SceneAnswer:
    from vlv.world.captions import short_caption
    from vlv.world.render import render
    from vlv.world.scene import sample_scene

    sampled = sample_scene(seed, "test")
    caption = short_caption(sampled, np.random.default_rng(seed))
    return SceneAnswer(image=png_data_url(render(sampled)), caption=caption, seed=seed)


@router.post(
    "/v1/vlv/caption",
    tags=["vlv"],
    response_model=CaptionAnswer,
    responses=stream_or_json(OOD_HEADERS),
)
async def caption(
    body: CaptionRequest, request: Request, response: Response, service: ServiceDependency
) -> Any:
    """A caption of an image, or of embeddings.

    With `stream`, server-sent events: `{"text"}` for each piece, then the whole response, then
    `[DONE]`.
    """
    context = service.context(request)
    source = await context.source(body)
    _check_num_queries(context, source, body.num_queries)
    job = CaptionJob(
        source,
        body.num_beams,
        body.max_new_tokens,
        body.min_new_tokens,
        body.temperature,
        body.top_p,
        body.seed,
        body.stream,
        num_queries=body.num_queries,
    )
    if not body.stream:
        written = await context.caption(job)
        set_headers(response, [Answer(written.caption.text, (written,))], [])
        return _caption_answer(written)
    return await stream_response(context, _caption_events(context, job))


async def _caption_events(context: RequestContext, job: CaptionJob) -> AsyncIterator[BaseModel]:
    async for piece in context.stream(job):
        if isinstance(piece, Tokens):
            yield CaptionPiece(text=piece.text)
        else:
            yield _caption_answer(piece)


def _caption_answer(written: CaptionResult) -> CaptionAnswer:
    answer = Answer(written.caption.text, (written,))
    return CaptionAnswer(
        caption=answer.text,
        tokens=answer.tokens,
        finish_reason=answer.finish_reason,
        in_distribution=written.in_distribution,
        out_of_distribution=answer.out_of_distribution,
        familiar=written.in_distribution,
    )


@router.post("/v1/vlv/verify", tags=["vlv"], responses=JOB_ERRORS)
async def verify(body: VerifyRequest, request: Request, service: ServiceDependency) -> VerifyAnswer:
    """Which sentences of a caption the image supports, by the denoising error."""
    context = service.context(request)
    if not context.info.can_verify:
        raise ApiError(501, "cannot_verify", "This model has no verifier for captions.")
    source, decoder_pixels = await context.image_to_verify(body.image)
    job = VerifyJob(source, decoder_pixels, body.caption, body.false_alarm_rate)
    verdicts = await context.verdicts(job)
    return VerifyAnswer(
        sentences=[SentenceAnswer.of(body.caption, one) for one in verdicts],
        false_alarm_rate=body.false_alarm_rate,
    )


@router.post("/v1/vlv/encode", tags=["vlv"], responses=JOB_ERRORS)
async def encode(body: EncodeRequest, request: Request, service: ServiceDependency) -> Z:
    """The caption embeddings of an image."""
    context = service.context(request)
    source = await context.image(body.image)
    _check_num_queries(context, source, body.num_queries)
    return Z.of((await context.array(EncodeJob(source)))[: body.num_queries])


@router.post(
    "/v1/vlv/reconstruct",
    tags=["vlv"],
    response_model=ImageAnswer,
    responses=stream_or_json({}),
)
async def reconstruct(
    body: ReconstructRequest, request: Request, service: ServiceDependency
) -> ImageAnswer | Response:
    """An image generated from embeddings (of an image or as sent), or from a text.

    With `stream`, server-sent events: `{"step", "steps"}` after each denoising step, then the whole
    response, then `[DONE]`.
    """
    context = service.context(request)
    if body.text is not None:
        return await _generate(context, body, body.text)
    source = await context.source(Source(image=body.image, z=body.z))
    _check_num_queries(context, source, body.num_queries)
    kept = body.num_queries or context.embedding_count(source)
    late = None if body.caption is None else LateCaption(body.caption, body.caption_start)
    return await _generate(context, body, (KeptEmbeddings(source, kept),), late)


@router.post(
    "/v1/vlv/compose",
    tags=["vlv"],
    response_model=ImageAnswer,
    responses=stream_or_json({}),
)
async def compose(
    body: ComposeRequest, request: Request, service: ServiceDependency
) -> ImageAnswer | Response:
    """One image generated from the embeddings of two images; `stream` as in reconstruct."""
    context = service.context(request)
    parts = []
    a, b = await context.sources(a=body.a, b=body.b)
    for name, source, keep in (("a", a, body.keep_a), ("b", b, body.keep_b)):
        last = name == "b" and body.order == "trailing"
        part = KeptEmbeddings(source, keep, last)
        count = context.embedding_count(part.source)
        if keep > count:
            raise ApiError(
                400,
                "too_many_kept",
                f"{name} has {count} embeddings, so {keep} cannot be kept.",
                f"keep_{name}",
            )
        parts.append(part)
    kept = body.keep_a + body.keep_b
    if not 0 < kept <= context.info.max_keep:
        raise ApiError(
            400,
            "too_many_kept",
            f"keep_a + keep_b must be 1 to {context.info.max_keep}, not {kept}.",
            "keep_b",
        )
    return await _generate(context, body, tuple(part for part in parts if part.keep))


def _check_num_queries(
    context: RequestContext, source: Pixels | Embeddings, num_queries: int | None
) -> None:
    """Raise ApiError where a source has fewer embeddings than are to be used."""
    count = context.embedding_count(source)
    if num_queries is not None and num_queries > count:
        raise ApiError(
            400,
            "too_many_kept",
            f"There are {count} embeddings, so the first {num_queries} cannot be used.",
            "num_queries",
        )


async def _generate(
    context: RequestContext,
    body: SamplingFields,
    source: str | tuple[KeptEmbeddings, ...],
    late: LateCaption | None = None,
) -> ImageAnswer | Response:
    if not context.info.can_draw:
        raise ApiError(
            501, "cannot_draw", "This model has no U-Net and VAE to generate images with."
        )
    if late is not None and not context.info.takes_late_captions:
        raise ApiError(
            501,
            "cannot_change_prompt",
            "This model draws all steps from the same prompt; leave out the caption.",
            "caption",
        )
    if body.num_inference_steps > context.info.max_steps:
        raise ApiError(
            400,
            "too_many_steps",
            f"The model was trained with {context.info.max_steps} steps; send at most as many.",
            "num_inference_steps",
        )
    sampler = SamplerSettings(body.guidance_scale, body.num_inference_steps, body.scheduler)
    job = ImageJob(source, sampler, body.seed, body.stream, late)
    if body.stream:
        return await stream_response(context, _drawing_events(context, job))
    return ImageAnswer(image=png_data_url(await context.array(job)), seed=body.seed)


async def _drawing_events(context: RequestContext, job: ImageJob) -> AsyncIterator[BaseModel]:
    async for event in context.image_events(job):
        if isinstance(event, Step):
            yield DrawingStep(step=event.step, steps=job.sampler.num_inference_steps)
        else:
            yield ImageAnswer(image=png_data_url(event), seed=job.seed)
