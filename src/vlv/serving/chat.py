"""OpenAI's chat completions, as far as they mean something for a captioner.

VLV follows no instruction: the one image of the messages is captioned, and text is ignored. Fields
of OpenAI that nothing here does are taken at the value that asks for nothing.
"""

import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, field_validator, model_validator

from vlv.serving.api import MAX_TOKENS, Beams, Seed, Strict, Temperature, TopP, check_beams
from vlv.serving.errors import ApiError
from vlv.serving.jobs import Caption, CaptionJob
from vlv.serving.jobs import Tokens as NewTokens
from vlv.serving.routes import STREAM, WORK, AService, errors
from vlv.serving.service import Service, Visit
from vlv.serving.streams import EventStream

router = APIRouter(prefix="/v1", tags=["openai"])


class ImageURL(Strict):
    """An image as a URL; `detail` changes nothing, as every image is seen at one size."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(Strict):
    """The image to caption; its URL alone will do, as some clients send it."""

    type: Literal["image_url"]
    image_url: ImageURL

    @field_validator("image_url", mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value


class TextPart(Strict):
    """A text, which is ignored."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """A message; of all messages, one part is an image."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[ImagePart | TextPart, Field(discriminator="type")]]
    name: str | None = None


class StreamOptions(Strict):
    """With `include_usage`, the last chunk counts tokens."""

    include_usage: bool = False


class TextFormat(Strict):
    """The only format."""

    type: Literal["text"]


class ChatRequest(Strict):
    """A request for one caption; temperature 0, the default, takes the likeliest tokens.

    More tokens than this server writes are not an error: the caption ends sooner by itself, or with
    the finish reason "length".
    """

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: Seed | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    num_beams: Beams = 1
    # Accepted where they ask for nothing.
    n: Literal[1] | None = None
    stop: Annotated[list[str], Field(max_length=0)] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    logprobs: Literal[False] | None = None
    response_format: TextFormat | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if sum(isinstance(part, ImagePart) for part in self._parts()) != 1:
            raise ValueError(
                "the messages must hold exactly one part "
                '{"type": "image_url", "image_url": {"url": ...}}'
            )
        check_beams(self.num_beams, self.temperature or 0, bool(self.stream))
        return self

    def _parts(self) -> list[ImagePart | TextPart]:
        return [
            part
            for message in self.messages
            if not isinstance(message.content, str)
            for part in message.content
        ]

    def image(self) -> str:
        """The URL of the image."""
        (image,) = (part for part in self._parts() if isinstance(part, ImagePart))
        return image.image_url.url

    def usage_wanted(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage


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
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


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
    for model in (await models(service)).data:
        if model.id == name:
            return model
    raise _unknown_model(service)


def _unknown_model(service: Service) -> ApiError:
    info = service.engine.info
    only = info.model if info else "none yet"
    return ApiError(404, "model_not_found", f"This server has the model {only} only.", "model")


@router.post(
    "/chat/completions", response_model=Completion, responses={**WORK, **errors(404), **STREAM}
)
async def chat(asked: ChatRequest, request: Request, service: AService) -> Any:
    """A caption of the one image in the messages; their texts are ignored.

    VLV follows no instruction. With `stream`, server-sent events as OpenAI's.
    """
    visit = service.enter(request)
    if asked.model != visit.info.model:
        raise _unknown_model(service)
    job = CaptionJob(
        await visit.image(asked.image(), "messages"),
        asked.num_beams,
        min(asked.max_completion_tokens or asked.max_tokens or 300, MAX_TOKENS),
        0,
        asked.temperature or 0.0,
        asked.top_p or 1.0,
        asked.seed or 0,
        bool(asked.stream),
    )
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": visit.info.model,
    }
    if asked.stream:
        return await EventStream.begun(_chunks(visit, job, head, asked.usage_wanted()))
    made = await visit.caption(job)
    choice = Choice(message=Answer(content=made.text), finish_reason=_finish(made))
    return Completion(**head, choices=[choice], usage=_usage(visit, made))


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
            yield Chunk(**head, choices=[end])
            if with_usage:
                yield Chunk(**head, choices=[], usage=_usage(visit, piece))


def _finish(made: Caption) -> Finish:
    return "stop" if made.ended else "length"


def _usage(visit: Visit, made: Caption) -> Usage:
    queries = visit.info.queries
    return Usage(
        prompt_tokens=queries, completion_tokens=made.tokens, total_tokens=queries + made.tokens
    )
