"""What all routes share: parsed bodies, the service as a dependency, and event streams."""

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent

from vlv.models.outputs import Caption
from vlv.serving.api.context import RequestContext, Service
from vlv.serving.api.openapi import OOD_HEADER
from vlv.serving.api.schemas import ErrorBody, FinishReason
from vlv.serving.errors import ApiError
from vlv.serving.worker.jobs import CaptionResult

_LINE_END = "\n"
# When the server stops, a stream has this long to end by itself, with an error as its last event.
_SHUTDOWN_SECONDS = 1.0
# A comment line so often: proxies close a connection on which nothing moves.
KEEP_ALIVE_SECONDS = 15.0


class JsonRoute(APIRoute):
    """Takes the body that `AdmissionMiddleware` has read and parsed."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of any route, called with the parsed body."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(_ParsedRequest(request.scope, request.receive))

        return handler


class _ParsedRequest(Request):
    async def body(self) -> bytes:
        # The text is not kept beside the parsed body.
        return b"{}" if "json" in self.scope["state"] else b""

    async def json(self) -> Any:
        return self.scope["state"]["json"]


def get_service(request: Request) -> Service:
    """The service of the app."""
    service: Service = request.app.state.service
    return service


ServiceDependency = Annotated[Service, Depends(get_service)]


def out_of_distribution(written: CaptionResult) -> bool | None:
    """Whether the image of a caption is unlike the training images; None if it is not known."""
    return None if written.in_distribution is None else not written.in_distribution


def finish_reason(caption: Caption) -> FinishReason:
    """Why a caption ended, in the words of OpenAI."""
    return "stop" if caption.ended else "length"


def set_ood_header(response: Response, written: CaptionResult) -> None:
    """Repeat it in a header, for clients that read only the caption."""
    unlike = out_of_distribution(written)
    if unlike is not None:
        response.headers[OOD_HEADER] = str(unlike).lower()


async def event_stream(
    context: RequestContext,
    values: AsyncIterator[BaseModel],
    headers: Mapping[str, str] | None = None,
) -> EventSourceResponse:
    """Server-sent events: each value as one `data:` line, then `data: [DONE]`. A comment keeps the
    connection alive while there is no value.

    Waits for the first value, so that an error before it becomes an ordinary error response. An
    error after it becomes the last value.
    """
    first = await anext(values)
    return EventSourceResponse(
        _events(context, first, values),
        headers={"Cache-Control": "no-cache", **(headers or {})},
        sep=_LINE_END,
        ping=KEEP_ALIVE_SECONDS,
        shutdown_grace_period=_SHUTDOWN_SECONDS,
    )


async def _events(
    context: RequestContext, first: BaseModel, rest: AsyncIterator[BaseModel]
) -> AsyncIterator[ServerSentEvent]:
    try:
        yield _event(first.model_dump_json())
        async for value in rest:
            yield _event(value.model_dump_json())
    except ApiError as error:
        context.request.state.failed = error.status
        yield _event(ErrorBody.model_validate(error.body()).model_dump_json())
    # A client that has read the end finds the slot free.
    await context.release()
    yield _event("[DONE]")


def _event(data: str) -> ServerSentEvent:
    return ServerSentEvent(data, sep=_LINE_END)
