"""Streamed answers: server-sent events, as OpenAI's and our own API have them, and lines of JSON.

A stream waits for its first value, so that an error before it becomes an ordinary error response.
An error after it becomes the last value.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, TypeVar

from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent

from vlv.serving.api.context import RequestContext
from vlv.serving.api.schemas import ErrorBody
from vlv.serving.errors import ApiError

Value = TypeVar("Value")
LINE_END = "\n"
# When the server stops, a stream has this long to end by itself, with an error as its last event.
_SHUTDOWN_SECONDS = 1.0
# A comment line so often: proxies close a connection on which nothing moves.
KEEP_ALIVE_SECONDS = 15.0
# nginx passes each line on at once.
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Events:
    """Server-sent events: each value as one `data:` line, then `data: [DONE]`.

    A comment keeps the connection alive while there is no value.
    """

    def response(self, content: AsyncIterator[Any], headers: Mapping[str, str]) -> Response:
        """The response that sends the content."""
        return EventSourceResponse(
            content,
            headers={**_HEADERS, **headers},
            sep=LINE_END,
            ping=KEEP_ALIVE_SECONDS,
            shutdown_grace_period=_SHUTDOWN_SECONDS,
        )

    def value(self, value: BaseModel) -> Any:
        """A value."""
        return ServerSentEvent(value.model_dump_json(), sep=LINE_END)

    def error(self, error: ApiError) -> Any:
        """The error that ends a stream."""
        return self.value(ErrorBody.model_validate(error.body()))

    def end(self) -> Any | None:
        """What follows the last value; None for nothing."""
        return ServerSentEvent("[DONE]", sep=LINE_END)


class Lines(Events):
    """A line of JSON for each value, as Ollama streams. There are no comments."""

    def response(self, content: AsyncIterator[Any], headers: Mapping[str, str]) -> Response:
        """The response that sends the content."""
        return StreamingResponse(content, 200, {**_HEADERS, **headers}, "application/x-ndjson")

    def value(self, value: BaseModel) -> Any:
        """A value."""
        return value.model_dump_json(exclude_none=True) + "\n"

    def error(self, error: ApiError) -> Any:
        """The error that ends a stream."""
        return self.value(_Line(error=error.message))

    def end(self) -> Any | None:
        """Nothing follows the last value."""
        return None


class _Line(BaseModel):
    error: str


async def interleaved(
    streams: Sequence[AsyncIterator[Value]],
) -> AsyncIterator[tuple[int, Value]]:
    """The values of several streams as they come, each with the index of its stream."""
    next_values = {asyncio.ensure_future(anext(one)): at for at, one in enumerate(streams)}
    try:
        while next_values:
            done, _ = await asyncio.wait(next_values, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=next_values.__getitem__):
                at = next_values.pop(task)
                try:
                    value = task.result()
                except StopAsyncIteration:
                    continue
                yield at, value
                next_values[asyncio.ensure_future(anext(streams[at]))] = at
    finally:
        for task in next_values:
            task.cancel()
        # Where one failed, others may have too.
        await asyncio.gather(*next_values, return_exceptions=True)


async def stream_response(
    context: RequestContext,
    values: AsyncIterator[BaseModel],
    headers: Mapping[str, str] | None = None,
    framing: Events | None = None,
) -> Response:
    """The response of a stream of values; server-sent events by default."""
    framing = framing or Events()
    first = await anext(values)
    return framing.response(_content(context, first, values, framing), headers or {})


async def _content(
    context: RequestContext, first: BaseModel, rest: AsyncIterator[BaseModel], framing: Events
) -> AsyncIterator[Any]:
    try:
        yield framing.value(first)
        async for value in rest:
            yield framing.value(value)
    except ApiError as error:
        context.request.state.failed = error.status
        yield framing.error(error)
    # A client that has read the end finds the slot free.
    await context.release()
    end = framing.end()
    if end is not None:
        yield end
