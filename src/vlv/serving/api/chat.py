"""OpenAI's chat completions, as far as they mean something for a captioner: answers and routes."""

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from vlv.serving.api.chat_schemas import ChatRequest
from vlv.serving.api.context import Visit
from vlv.serving.api.routes import (
    OUT_OF_DISTRIBUTION,
    STREAM,
    WORK,
    AService,
    JsonRoute,
    errors,
    out_of_distribution,
    tell_distribution,
)
from vlv.serving.api.routing import EventStream
from vlv.serving.errors import ApiError
from vlv.serving.worker.jobs import Caption, CaptionJob
from vlv.serving.worker.jobs import Tokens as NewTokens

router = APIRouter(prefix="/v1", tags=["openai"], route_class=JsonRoute)

IGNORED = "X-VLV-Ignored"


Finish = Literal["stop", "length"]


class Usage(BaseModel):
    """Embeddings that the language model reads, and tokens that it wrote."""

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
    finish_reason: Finish
    logprobs: None = None


class Completion(BaseModel):
    """A whole answer. `model` is the one that answered. `out_of_distribution` is no field of
    OpenAI: the image is unlike those of training, so do not rely on the caption; null if the model
    cannot tell.
    """

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    out_of_distribution: bool | None


class Delta(BaseModel):
    """What a chunk adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """The only choice, in pieces."""

    index: Literal[0] = 0
    delta: Delta
    finish_reason: Finish | None = None
    logprobs: None = None


class Chunk(BaseModel):
    """A piece of an answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class LastChunk(Chunk):
    """The end of an answer; `out_of_distribution` as of a whole one."""

    out_of_distribution: bool | None


class Model(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "vlv"


class Models(BaseModel):
    """All models that are served: one."""

    object: Literal["list"] = "list"
    data: list[Model]


@router.get("/models", responses=errors(503))
async def models(service: AService) -> Models:
    """The model that is served."""
    if service.engine.info is None:
        raise ApiError(503, "not_ready", "The model is still being loaded.")
    return Models(data=[Model(id=service.engine.info.model)])


@router.get("/models/{name:path}", responses=errors(404, 503))
async def one_model(name: str, service: AService) -> Model:
    """The model that is served, by its name."""
    (model,) = (await models(service)).data
    if model.id != name:
        message = f"This server has the model {model.id} only."
        raise ApiError(404, "model_not_found", message, "model")
    return model


_HEADERS = {
    IGNORED: {"description": "Fields that changed nothing.", "schema": {"type": "string"}},
    **OUT_OF_DISTRIBUTION,
}


@router.post(
    "/chat/completions",
    response_model=Completion,
    responses={**WORK, 200: {**STREAM[200], "headers": _HEADERS}},
)
async def chat(asked: ChatRequest, request: Request, response: Response, service: AService) -> Any:
    """A caption of the last image in the messages; their texts are ignored.

    VLV follows no instruction. With `stream`, server-sent events as OpenAI's; the last piece of the
    caption has `out_of_distribution`.
    """
    visit = service.enter(request)
    job = CaptionJob(
        await visit.image(asked.image(), "messages"),
        asked.num_beams or 1,
        asked.new_tokens(),
        0,
        asked.temperature or 0.0,
        1.0 if asked.top_p is None else asked.top_p,
        asked.seed_or_any(),
        bool(asked.stream),
    )
    ignored = asked.ignored()
    headers = {IGNORED: ", ".join(ignored)} if ignored else {}
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": visit.info.model,
    }
    if asked.stream:
        return await EventStream.begun(_chunks(visit, job, head, asked.usage_wanted()), headers)
    made = await visit.caption(job)
    response.headers.update(headers)
    tell_distribution(response, made)
    return Completion(
        **head,
        choices=[Choice(message=Answer(content=made.text), finish_reason=_finish(made))],
        usage=_usage(visit, made),
        out_of_distribution=out_of_distribution(made),
    )


async def _chunks(
    visit: Visit, job: CaptionJob, head: dict[str, Any], with_usage: bool
) -> AsyncIterator[BaseModel]:
    role: Literal["assistant"] | None = "assistant"
    async for piece in visit.stream(job):
        if isinstance(piece, NewTokens):
            delta = Delta(role=role, content=piece.text)
            yield Chunk(**head, choices=[ChunkChoice(delta=delta)])
            role = None
        else:
            end = ChunkChoice(delta=Delta(), finish_reason=_finish(piece))
            unlike = out_of_distribution(piece)
            yield LastChunk(**head, choices=[end], out_of_distribution=unlike)
            if with_usage:
                yield Chunk(**head, choices=[], usage=_usage(visit, piece))


def _finish(made: Caption) -> Finish:
    return "stop" if made.ended else "length"


def _usage(visit: Visit, made: Caption) -> Usage:
    queries = visit.info.queries
    return Usage(
        prompt_tokens=queries, completion_tokens=made.tokens, total_tokens=queries + made.tokens
    )
