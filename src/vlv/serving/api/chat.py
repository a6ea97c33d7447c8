"""OpenAI's chat completions for captions: responses and routes."""

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from vlv.serving.api.chat_schemas import ChatRequest
from vlv.serving.api.context import RequestContext
from vlv.serving.api.openapi import OOD_HEADERS, error_responses, stream_or_json
from vlv.serving.api.routing import (
    JsonRoute,
    ServiceDependency,
    event_stream,
    finish_reason,
    out_of_distribution,
    set_ood_header,
)
from vlv.serving.api.schemas import FinishReason
from vlv.serving.errors import ApiError
from vlv.serving.worker.jobs import CaptionJob, CaptionResult, Tokens

router = APIRouter(prefix="/v1", tags=["openai"], route_class=JsonRoute)

IGNORED_HEADER = "X-VLV-Ignored"


class Usage(BaseModel):
    """Number of embeddings that the language model read, and of tokens that it wrote."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Answer(BaseModel):
    """The caption as an assistant's message."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """The only choice."""

    index: Literal[0] = 0
    message: Answer
    finish_reason: FinishReason
    logprobs: None = None


class Completion(BaseModel):
    """A whole response; `model` is the model that wrote it.

    `out_of_distribution` is not a field of OpenAI. If it is true, the image is unlike the training
    images: do not rely on the caption. It is null if the model has no out-of-distribution detector.
    """

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    out_of_distribution: bool | None


class Delta(BaseModel):
    """The text that a chunk adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """A piece of the only choice."""

    index: Literal[0] = 0
    delta: Delta
    finish_reason: FinishReason | None = None
    logprobs: None = None


class Chunk(BaseModel):
    """A piece of a response."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class LastChunk(Chunk):
    """The last piece of a response; `out_of_distribution` as in a whole one."""

    out_of_distribution: bool | None


class Model(BaseModel):
    """The model of this server."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "vlv"


class Models(BaseModel):
    """The list of models, which has one entry."""

    object: Literal["list"] = "list"
    data: list[Model]


@router.get("/models", responses=error_responses(503))
async def models(service: ServiceDependency) -> Models:
    """The model of this server."""
    if service.engine.info is None:
        raise ApiError(503, "not_ready", "The model is still being loaded.")
    return Models(data=[Model(id=service.engine.info.model)])


@router.get("/models/{name:path}", responses=error_responses(404, 503))
async def one_model(name: str, service: ServiceDependency) -> Model:
    """The model of this server, by its name."""
    (model,) = (await models(service)).data
    if model.id != name:
        message = f"This server has only the model {model.id}."
        raise ApiError(404, "model_not_found", message, "model")
    return model


_HEADERS = {
    IGNORED_HEADER: {
        "description": "Fields of the request that had no effect.",
        "schema": {"type": "string"},
    },
    **OOD_HEADERS,
}


@router.post(
    "/chat/completions",
    response_model=Completion,
    responses=stream_or_json(_HEADERS),
)
async def chat(
    body: ChatRequest, request: Request, response: Response, service: ServiceDependency
) -> Any:
    """A caption of the last image in the messages; their texts are ignored.

    VLV follows no instructions. With `stream`, server-sent events in OpenAI's format; the last
    piece of the caption has `out_of_distribution`.
    """
    context = service.context(request)
    job = CaptionJob(
        await context.image(body.image(), "messages"),
        body.num_beams or 1,
        body.max_new_tokens(),
        0,
        body.temperature or 0.0,
        1.0 if body.top_p is None else body.top_p,
        body.resolved_seed(),
        bool(body.stream),
    )
    ignored = body.ignored()
    headers = {IGNORED_HEADER: ", ".join(ignored)} if ignored else {}
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": context.info.model,
    }
    if body.stream:
        chunks = _chunks(context, job, head, body.wants_usage())
        return await event_stream(context, chunks, headers)
    written = await context.caption(job)
    response.headers.update(headers)
    set_ood_header(response, written)
    return Completion(
        **head,
        choices=[
            Choice(
                message=Answer(content=written.caption.text),
                finish_reason=finish_reason(written.caption),
            )
        ],
        usage=_usage(context, written),
        out_of_distribution=out_of_distribution(written),
    )


async def _chunks(
    context: RequestContext, job: CaptionJob, head: dict[str, Any], with_usage: bool
) -> AsyncIterator[BaseModel]:
    role: Literal["assistant"] | None = "assistant"
    async for piece in context.stream(job):
        if isinstance(piece, Tokens):
            delta = Delta(role=role, content=piece.text)
            yield Chunk(**head, choices=[ChunkChoice(delta=delta)])
            role = None
        else:
            end = ChunkChoice(delta=Delta(), finish_reason=finish_reason(piece.caption))
            unlike = out_of_distribution(piece)
            yield LastChunk(**head, choices=[end], out_of_distribution=unlike)
            if with_usage:
                yield Chunk(**head, choices=[], usage=_usage(context, piece))


def _usage(context: RequestContext, written: CaptionResult) -> Usage:
    queries, tokens = context.info.queries, written.caption.tokens
    return Usage(prompt_tokens=queries, completion_tokens=tokens, total_tokens=queries + tokens)
