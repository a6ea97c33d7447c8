"""The door for requests that the model works on: a slot first, then the body, then the work."""

import asyncio
from collections.abc import Awaitable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlv.serving.api.context import Service
from vlv.serving.errors import ApiError
from vlv.serving.http import request_bodies as bodies


class Gate:
    """A server that is asked for more than it can do should spend next to nothing on what it will
    not do: what it spends, those whom it accepted wait for.

    routes: by path, those of which every POST takes a slot. `scope["state"]` has the request's
    `slot`, its body as `json`, and `held`, an exit stack for what a request holds (its slot, its
    job): all of it is let go when the request ends, however it ends, and before the last of an
    answer is sent: a client that has its answer finds the slot free. Work for a client that has
    gone is cancelled.
    """

    def __init__(
        self, app: ASGIApp, service: Service, routes: Mapping[str, Any], max_bytes: int
    ) -> None:
        self._app = app
        self._service = service
        self._routes = routes
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer for the route that it did not reach."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        route = self._routes.get(scope["path"])
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        async with AsyncExitStack() as held:
            try:
                complete = await self._enter(scope, receive, held)
            except ApiError as error:
                await held.aclose()
                await error.response()(scope, receive, send)
                return
            if complete:
                await self._run(scope, held, receive, send)

    async def _enter(self, scope: Scope, receive: Receive, held: AsyncExitStack) -> bool:
        """Take a slot and read the body; False if the client left before it was complete."""
        headers = Headers(scope=scope)
        slot = self._service.admit(bodies.declared_size(headers, self._max_bytes))
        held.callback(slot.free)
        state = scope.setdefault("state", {})
        state["slot"], state["held"] = slot, held
        body = await bodies.read(receive, slot, self._max_bytes)
        if body is None:
            return False
        bodies.check_type(headers)
        state["json"] = bodies.parse(body)
        return True

    async def _run(self, scope: Scope, held: AsyncExitStack, receive: Receive, send: Send) -> None:
        async def releasing(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                await held.aclose()
            await send(message)

        await _unless(_gone(receive), self._app(scope, _nothing_more, releasing))


async def _nothing_more() -> Message:
    return await asyncio.get_running_loop().create_future()  # a disconnect cancels


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
