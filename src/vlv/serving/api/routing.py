"""Server-sent events."""

from collections.abc import AsyncIterator, Mapping
from typing import Self

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vlv.serving.api.schemas import ErrorBody
from vlv.serving.errors import ApiError


class EventStream(Response):
    """Sends each value as one `data:` line, then `data: [DONE]`.

    What goes wrong once the stream has begun becomes its last value, an error.
    """

    media_type = "text/event-stream"

    def __init__(
        self, first: BaseModel, rest: AsyncIterator[BaseModel], headers: Mapping[str, str]
    ) -> None:
        # Proxies are to pass each event on as it comes.
        own = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(headers={**own, **headers})
        del self.headers["content-length"]
        self._first = first
        self._rest = rest

    @classmethod
    async def begun(
        cls, values: AsyncIterator[BaseModel], headers: Mapping[str, str] | None = None
    ) -> Self:
        """A stream whose first value is there, so that what fails before is no stream."""
        return cls(await anext(values), values, headers or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events as they come."""

        async def line(data: str, more: bool = True) -> None:
            body = f"data: {data}\n\n".encode()
            await send({"type": "http.response.body", "body": body, "more_body": more})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await line(self._first.model_dump_json())
            async for value in self._rest:
                await line(value.model_dump_json())
        except ApiError as error:
            scope["state"]["outcome"] = error.code
            await line(ErrorBody.model_validate(error.body()).model_dump_json())
        await line("[DONE]", more=False)
