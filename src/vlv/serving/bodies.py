"""Request bodies are read up to a cap and a time; the work for a client that has gone is ended."""

import asyncio
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlv.serving.errors import ApiError


class Bodies:
    """Reads a request's body, runs the app, and cancels it when the client disconnects.

    `scope["state"]["held"]` is an exit stack for what a request holds (its slot, its job): all of
    it is let go when the request ends, however it ends, and before the last of an answer is sent:
    a client that has its answer finds the slot free.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the whole body first, within its limits."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._read(scope, receive)
        except TimeoutError:
            body = ApiError(408, "slow_request", "The request's body took too long to arrive.")
        if isinstance(body, ApiError):
            await body.response()(scope, receive, send)
        elif body is not None:
            await self._run(scope, body, receive, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | ApiError | None:
        """The body; None if the client left before it was complete."""
        too_large = ApiError(
            413,
            "body_too_large",
            f"The request's body has more than {self._max_bytes / 1e6:g} MB; send a smaller image.",
        )
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            return too_large
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_bytes:
                return too_large
            if not message.get("more_body", False):
                return b"".join(parts)

    async def _run(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            if messages:
                return messages.pop()
            return await asyncio.get_running_loop().create_future()  # a disconnect cancels

        async with AsyncExitStack() as held:
            scope.setdefault("state", {})["held"] = held

            async def releasing(message: Message) -> None:
                if message["type"] == "http.response.body" and not message.get("more_body", False):
                    await held.aclose()
                await send(message)

            await _unless(_gone(receive), self._app(scope, replay, releasing))


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _unless(stop: Awaitable[None], work: Awaitable[Any]) -> None:
    """Do the work, and cancel it if `stop` comes first."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop)
    try:
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        if not working.done():
            working.cancel()
        await asyncio.wait([working, stopping])
    if not working.cancelled():
        await working
