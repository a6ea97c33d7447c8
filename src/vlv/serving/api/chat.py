"""OpenAI's chat completions for captions: responses and routes."""

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from vlv.serving.api.answers import (
    IGNORED_HEADER_DESCRIPTION,
    Answer,
    ignored_header,
    set_headers,
    start_answers,
    stream_answer,
    whole_answer,
)
from vlv.serving.api.chat_schemas import ChatRequest
from vlv.serving.api.context import RequestContext
from vlv.serving.api.layouts import Layout
from vlv.serving.api.openapi import OOD_HEADERS, error_responses, stream_or_json
from vlv.serving.api.routing import JsonRoute, ServiceDependency
from vlv.serving.api.schemas import FinishReason
from vlv.serving.api.streams import interleaved, stream_response
from vlv.serving.engine import JobHandle
from vlv.serving.errors import ApiError

router = APIRouter(prefix="/v1", tags=["openai"], route_class=JsonRoute)


class Usage(BaseModel):
    """Number of embeddings that the language model read, and of tokens that it wrote."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Message(BaseModel):
    """The captions as an assistant's message."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """One of the `n` choices."""

    index: int
    message: Message
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
    """A piece of a choice."""

    index: int
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
    """The last piece of a choice; `out_of_distribution` as in a whole response."""

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
    return Models(data=[Model(id=service.info.model)])


@router.get("/models/{name:path}", responses=error_responses(404, 503))
async def one_model(name: str, service: ServiceDependency) -> Model:
    """The model of this server, by its name."""
    (model,) = (await models(service)).data
    if model.id != name:
        message = f"This server has only the model {model.id}."
        raise ApiError(404, "model_not_found", message, "model")
    return model


@router.post(
    "/chat/completions",
    response_model=Completion,
    responses=stream_or_json({**IGNORED_HEADER_DESCRIPTION, **OOD_HEADERS}),
)
async def chat(
    body: ChatRequest, request: Request, response: Response, service: ServiceDependency
) -> Any:
    """Captions of the images in the last message with images; the texts are ignored.

    VLV follows no instructions. With `stream`, server-sent events in OpenAI's format; the last
    piece of each choice has `out_of_distribution`.
    """
    context = service.context(request)
    layout = body.layout()
    answers = body.n or 1
    images = await context.images(body.images(), answers)
    handles = start_answers(context, body.jobs(images, body.streams(), answers))
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": context.info.model,
    }
    if body.streams():
        chunks = _chunks(context, handles, layout, head, body.wants_usage())
        return await stream_response(context, chunks, ignored_header(body.ignored()))
    whole = [await whole_answer(context, of_answer, layout) for of_answer in handles]
    set_headers(response, whole, body.ignored())
    return Completion(
        **head,
        choices=[
            Choice(
                index=index,
                message=Message(content=answer.text),
                finish_reason=answer.finish_reason,
            )
            for index, answer in enumerate(whole)
        ],
        usage=_usage(context, whole),
        # All choices have the same images.
        out_of_distribution=whole[0].out_of_distribution,
    )


async def _chunks(
    context: RequestContext,
    handles: list[list[JobHandle]],
    layout: Layout,
    head: dict[str, Any],
    with_usage: bool,
) -> AsyncIterator[BaseModel]:
    """All choices are written at once, and their pieces sent as they come."""
    answers: list[Answer] = []
    begun: set[int] = set()
    pieces = interleaved([stream_answer(context, of_answer, layout) for of_answer in handles])
    async for index, piece in pieces:
        if isinstance(piece, Answer):
            answers.append(piece)
            end = ChunkChoice(index=index, delta=Delta(), finish_reason=piece.finish_reason)
            unlike = piece.out_of_distribution
            yield LastChunk(**head, choices=[end], out_of_distribution=unlike)
        else:
            delta = Delta(role=None if index in begun else "assistant", content=piece)
            yield Chunk(**head, choices=[ChunkChoice(index=index, delta=delta)])
            begun.add(index)
    if with_usage:
        yield Chunk(**head, choices=[], usage=_usage(context, answers))


def _usage(context: RequestContext, answers: list[Answer]) -> Usage:
    read = context.tokens_read(len(answers[0].captions))
    written = sum(answer.tokens for answer in answers)
    return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)
