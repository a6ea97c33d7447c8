"""OpenAI's Responses API for captions: the route, and the events of a stream."""

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict
from sse_starlette import ServerSentEvent

from vlv.serving.api.answers import (
    IGNORED_HEADER_DESCRIPTION,
    Answer,
    ignored_header,
    set_headers,
    start_answers,
    stream_answer,
    whole_answer,
)
from vlv.serving.api.context import RequestContext
from vlv.serving.api.layouts import Layout
from vlv.serving.api.openapi import OOD_HEADERS, stream_or_json
from vlv.serving.api.responses_schemas import (
    IncompleteDetails,
    OutputMessage,
    OutputText,
    ResponseBody,
    ResponsesRequest,
    ResponseUsage,
)
from vlv.serving.api.routing import JsonRoute, ServiceDependency
from vlv.serving.api.streams import LINE_END, Events, stream_response
from vlv.serving.engine import JobHandle
from vlv.serving.errors import ApiError

router = APIRouter(prefix="/v1", tags=["openai"], route_class=JsonRoute)


class Event(BaseModel):
    """An event of a stream; its fields depend on its type."""

    model_config = ConfigDict(extra="allow")

    type: str
    sequence_number: int = 0


class NamedEvents(Events):
    """Server-sent events that have names and numbers, as OpenAI's client expects them."""

    def __init__(self) -> None:
        self._sent = 0

    def value(self, value: BaseModel) -> ServerSentEvent:
        """An event with the next number."""
        assert isinstance(value, Event)
        value.sequence_number = self._sent
        self._sent += 1
        return ServerSentEvent(value.model_dump_json(), event=value.type, sep=LINE_END)

    def error(self, error: ApiError) -> ServerSentEvent:
        """The error that ends a stream."""
        detail = {"code": error.code, "message": error.message, "param": error.param}
        return self.value(Event(type="error", **detail))

    def end(self) -> None:
        """Nothing follows the last event."""


@dataclass
class _Writer:
    """Response bodies of one request, in progress and whole."""

    context: RequestContext
    body: ResponsesRequest
    id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    item_id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def item(self, answer: Answer | None) -> OutputMessage:
        """The message; None while it is in progress."""
        if answer is None:
            return OutputMessage(id=self.item_id, status="in_progress", content=[])
        status = "completed" if answer.finish_reason == "stop" else "incomplete"
        content = [OutputText(text=answer.text)]
        return OutputMessage(id=self.item_id, status=status, content=content)

    def response(self, answer: Answer | None) -> ResponseBody:
        """The response; None while it is in progress."""
        whole: dict[str, Any] = {"status": "in_progress"}
        if answer is not None:
            cut = answer.finish_reason == "length"
            read = self.context.tokens_read(len(answer.captions))
            whole = {
                "status": "incomplete" if cut else "completed",
                "incomplete_details": IncompleteDetails() if cut else None,
                "output": [self.item(answer)],
                "usage": ResponseUsage(
                    input_tokens=read,
                    output_tokens=answer.tokens,
                    total_tokens=read + answer.tokens,
                ),
                "out_of_distribution": answer.out_of_distribution,
            }
        return ResponseBody(
            id=self.id,
            created_at=self.created,
            model=self.context.info.model,
            temperature=self.body.warmth(),
            top_p=1.0 if self.body.top_p is None else self.body.top_p,
            max_output_tokens=self.body.limits()[1],
            **whole,
        )


@router.post(
    "/responses",
    response_model=ResponseBody,
    responses=stream_or_json({**IGNORED_HEADER_DESCRIPTION, **OOD_HEADERS}),
)
async def responses(
    body: ResponsesRequest, request: Request, response: Response, service: ServiceDependency
) -> Any:
    """Captions of the images in the last message with images; the texts are ignored.

    VLV follows no instructions, and stores nothing. With `stream`, OpenAI's events; the response in
    the last one has `out_of_distribution`.
    """
    context = service.context(request)
    layout = body.layout()
    images = await context.images(body.images())
    (handles,) = start_answers(context, body.jobs(images, bool(body.stream)))
    writer = _Writer(context, body)
    if body.stream:
        events = _events(writer, handles, layout)
        return await stream_response(context, events, ignored_header(body.ignored()), NamedEvents())
    answer = await whole_answer(context, handles, layout)
    set_headers(response, [answer], body.ignored())
    return writer.response(answer)


async def _events(
    writer: _Writer, handles: list[JobHandle], layout: Layout
) -> AsyncIterator[Event]:
    pieces = stream_answer(writer.context, handles, layout)
    # Nothing is sent before there is text: an error until then is an ordinary error response.
    piece = await anext(pieces)
    item: dict[str, Any] = {"output_index": 0}
    part: dict[str, Any] = {**item, "item_id": writer.item_id, "content_index": 0}
    yield Event(type="response.created", response=writer.response(None))
    yield Event(type="response.in_progress", response=writer.response(None))
    yield Event(type="response.output_item.added", item=writer.item(None), **item)
    yield Event(type="response.content_part.added", part=OutputText(text=""), **part)
    while not isinstance(piece, Answer):
        yield Event(type="response.output_text.delta", delta=piece, logprobs=[], **part)
        piece = await anext(pieces)
    text = piece.text
    yield Event(type="response.output_text.done", text=text, logprobs=[], **part)
    yield Event(type="response.content_part.done", part=OutputText(text=text), **part)
    yield Event(type="response.output_item.done", item=writer.item(piece), **item)
    whole = writer.response(piece)
    yield Event(type=f"response.{whole.status}", response=whole)
