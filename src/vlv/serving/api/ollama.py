"""Ollama's API for captions: `/api/chat`, `/api/generate`, and what clients ask before them."""

import hashlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

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
from vlv.serving.api.context import RequestContext, Service
from vlv.serving.api.generation import ImageAt
from vlv.serving.api.layouts import Layout
from vlv.serving.api.ollama_schemas import (
    AssistantMessage,
    ChatAnswer,
    ChatRequest,
    Details,
    Done,
    GenerateAnswer,
    GenerateRequest,
    ListedModel,
    ListedModels,
    OllamaRequest,
    ShownModel,
    ShowRequest,
    Version,
    now,
)
from vlv.serving.api.openapi import OLLAMA_JOB_ERRORS, OOD_HEADERS, ollama_errors, stream_or_json
from vlv.serving.api.routing import JsonRoute, ServiceDependency
from vlv.serving.api.streams import Lines, stream_response
from vlv.serving.engine import JobHandle
from vlv.serving.worker.jobs import ModelInfo
from vlv.version import __version__

router = APIRouter(prefix="/api", tags=["ollama"], route_class=JsonRoute)

# Clients compare it with the first version that has what they need.
OLLAMA_VERSION = "0.13.0"
_RESPONSES = stream_or_json(
    {**IGNORED_HEADER_DESCRIPTION, **OOD_HEADERS}, "application/x-ndjson", OLLAMA_JOB_ERRORS
)

Fields = Callable[[str], dict[str, Any]]


@router.post(
    "/chat", response_model=ChatAnswer, response_model_exclude_none=True, responses=_RESPONSES
)
async def chat(
    body: ChatRequest, request: Request, response: Response, service: ServiceDependency
) -> Any:
    """Captions of the images in the last message with images; the texts are ignored."""

    def answer(text: str, **end: Any) -> ChatAnswer:
        return ChatAnswer(message=AssistantMessage(content=text), **end)

    return await _respond(service.context(request), body, body.images(), answer, response)


@router.post(
    "/generate",
    response_model=GenerateAnswer,
    response_model_exclude_none=True,
    responses=_RESPONSES,
)
async def generate(
    body: GenerateRequest, request: Request, response: Response, service: ServiceDependency
) -> Any:
    """Captions of the images; the prompt is ignored."""

    def answer(text: str, **end: Any) -> GenerateAnswer:
        return GenerateAnswer(response=text, **end)

    return await _respond(service.context(request), body, body.images(), answer, response)


async def _respond(
    context: RequestContext,
    body: OllamaRequest,
    images: list[ImageAt],
    answer: Callable[..., Done],
    response: Response,
) -> Any:
    start, name = time.perf_counter_ns(), tagged(context.info)
    layout = body.layout()
    if not images:
        loaded = answer("", model=name, done=True, done_reason="load")
        return await _loaded(context, loaded) if body.streams() else loaded
    pixels = await context.images([one._replace(url=_as_url(one.url)) for one in images])
    (handles,) = start_answers(context, body.generation().jobs(pixels, body.streams()))
    ignored = body.ignored(context.request.state.json)

    def last(text: str, whole: Answer) -> Done:
        return answer(text, model=name, done=True, **_counts(context, whole, start))

    if body.streams():
        lines = _lines(context, handles, layout, answer, last)
        return await stream_response(context, lines, ignored_header(ignored), Lines())
    whole = await whole_answer(context, handles, layout)
    set_headers(response, [whole], ignored)
    return last(whole.text, whole)


async def _lines(
    context: RequestContext,
    handles: list[JobHandle],
    layout: Layout,
    answer: Callable[..., Done],
    last: Callable[[str, Answer], Done],
) -> AsyncIterator[BaseModel]:
    async for piece in stream_answer(context, handles, layout):
        if isinstance(piece, Answer):
            yield last("", piece)
        else:
            yield answer(piece, model=tagged(context.info), done=False)


async def _loaded(context: RequestContext, value: BaseModel) -> Response:
    async def values() -> AsyncIterator[BaseModel]:
        yield value

    return await stream_response(context, values(), framing=Lines())


def _counts(context: RequestContext, answer: Answer, start: int) -> dict[str, Any]:
    """The end of an answer. The time of the encoder is part of that of the text."""
    nanoseconds = time.perf_counter_ns() - start
    return {
        "done_reason": answer.finish_reason,
        "total_duration": nanoseconds,
        "load_duration": 0,
        "prompt_eval_count": context.tokens_read(len(answer.captions)),
        "prompt_eval_duration": 0,
        "eval_count": answer.tokens,
        "eval_duration": nanoseconds,
        "out_of_distribution": answer.out_of_distribution,
    }


@router.get("/tags", responses=ollama_errors(503))
async def tags(service: ServiceDependency) -> ListedModels:
    """The model of this server."""
    return _listed(service)


@router.get("/ps", responses=ollama_errors(503))
async def running(service: ServiceDependency) -> ListedModels:
    """The model of this server, which is always loaded."""
    return _listed(service)


@router.post("/show", responses=OLLAMA_JOB_ERRORS)
async def show(body: ShowRequest, service: ServiceDependency) -> ShownModel:
    """What the model can do."""
    info = service.info
    facts: dict[str, int | str] = {
        "general.architecture": "vlv",
        "general.basename": info.model,
        "vlv.embedding_length": info.width,
        "vlv.embeddings": info.queries,
        "vlv.vision.image_size": info.image_size,
    }
    return ShownModel(details=Details(), model_info=facts)


@router.get("/version", responses=ollama_errors())
async def version() -> Version:
    """Which version of Ollama's API this is."""
    return Version(version=OLLAMA_VERSION, vlv=__version__)


def tagged(info: ModelInfo) -> str:
    """The model's name with a tag, as all names of Ollama have one."""
    return info.model if ":" in info.model else f"{info.model}:latest"


def _listed(service: Service) -> ListedModels:
    name = tagged(service.info)
    digest = hashlib.sha256(name.encode()).hexdigest()
    # Its files are not Ollama's, so they have no size there.
    model = ListedModel(
        name=name, model=name, modified_at=now(), size=0, digest=digest, details=Details()
    )
    return ListedModels(models=[model])


def _as_url(image: str) -> str:
    """An image of Ollama as a URL: base64, unless it is a URL already."""
    head = image[:200].lstrip().lower()
    is_url = head.startswith(("data:", "http://", "https://"))
    return image if is_url else f"data:;base64,{image}"
