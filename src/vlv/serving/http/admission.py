"""Admission of requests that the model works on: a slot first, then the body, then the work.

`Admission` limits how many requests are accepted at once, how many bytes their bodies may take, and
how long each may take. An overloaded server must spend as little as possible on requests that it
refuses, since the accepted ones wait for it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlv.serving.errors import ApiError
from vlv.serving.http.keys import ApiKey
from vlv.serving.http.request_bodies import (
    check_content_type,
    declared_size,
    parse_body,
    read_body,
    seconds_allowed,
)
from vlv.serving.telemetry import Metrics

T = TypeVar("T")


class Slot:
    """The right of one request to be worked on; `until` is its deadline on the loop's clock."""

    def __init__(self, admission: "Admission", until: float) -> None:
        self._admission = admission
        self._size = 0
        self._timeout: asyncio.Timeout | None = None
        self.until = until

    async def within(self, work: Awaitable[T]) -> T:
        """The result of the work.

        Raises:
            ApiError: 504, the deadline passed; 503, the server stops.
        """
        late = ApiError(
            504,
            "deadline_exceeded",
            f"The answer took longer than the {self._admission.seconds:g} s that a request "
            "may take; ask for less, or try again later.",
        )
        async with self.deadline(self.until, late):
            return await work

    @asynccontextmanager
    async def deadline(self, when: float, late: ApiError) -> AsyncIterator[asyncio.Timeout]:
        """Cancel the work inside at `when`, or when the server stops.

        Raises:
            ApiError: `late`, or 503 when the server stops.
        """
        try:
            async with asyncio.timeout_at(when) as self._timeout:
                yield self._timeout
        except TimeoutError as error:
            raise (_stopped() if self._admission.stopped else late) from error
        finally:
            self._timeout = None

    def reserve(self, size: int) -> None:
        """Reserve memory for so many bytes of the body that arrived.

        Raises:
            ApiError: 429, the bodies of all requests leave no room.
        """
        self._admission.check_room(size)
        self._admission.bytes_used += size
        self._size += size

    def expire(self) -> None:
        """Set the deadline to now."""
        self.until = asyncio.get_running_loop().time()
        if self._timeout is not None:
            with contextlib.suppress(RuntimeError):  # it has passed already
                self._timeout.reschedule(self.until)

    def release(self) -> None:
        """Make the slot available to another request."""
        self._admission.slots.discard(self)
        self._admission.bytes_used -= self._size


class Admission:
    """Gives out `limit` slots, before anything is done for a request; refuses at once beyond them.

    The bodies of all slots together have at most `max_bytes`. Only bytes that arrived count, so a
    body that arrives slowly takes no room from others.
    """

    def __init__(self, limit: int, seconds: float, max_bytes: int, metrics: Metrics) -> None:
        self.limit = limit
        self.seconds = seconds
        self.slots: set[Slot] = set()
        self.bytes_used = 0
        self.draining = False
        self.stopped = False
        self._max_bytes = max_bytes
        self._metrics = metrics
        metrics.slots.set(limit)
        metrics.slots_used.set_function(lambda: self.used)

    @property
    def used(self) -> int:
        """Number of slots in use."""
        return len(self.slots)

    def check(self, size: int) -> None:
        """Refuse a request that there is no slot for. size: bytes of its body, as far as known.

        Raises:
            ApiError: 429, all slots are in use or there is no room for the body; 503, the server
                is stopping.
        """
        if self.draining:
            self._metrics.refused.labels("draining").inc()
            raise ApiError(503, "draining", "This server is stopping; ask another one.")
        if self.used >= self.limit:
            self._metrics.refused.labels("queue_full").inc()
            raise ApiError(429, "queue_full", "The queue is full; try again in a moment.")
        try:
            self.check_room(size)
        except ApiError:
            self._metrics.refused.labels("bodies_full").inc()
            raise

    def admit(self) -> Slot:
        """A slot for a request that `check` has let pass."""
        slot = Slot(self, asyncio.get_running_loop().time() + self.seconds)
        self.slots.add(slot)
        self._metrics.accepted.inc()
        return slot

    def check_room(self, size: int) -> None:
        """Raise ApiError, 429, if the bodies of all requests leave no room for `size` bytes."""
        if self.bytes_used + size > self._max_bytes:
            raise ApiError(
                429,
                "queue_full",
                "The server holds too many large requests; try again in a moment.",
            )

    def stop(self) -> None:
        """Answer 503 to every request that has a slot."""
        self.stopped = True
        for slot in self.slots:
            slot.expire()


def _stopped() -> ApiError:
    return ApiError(
        503,
        "draining",
        "The server stopped before the answer was complete; ask again, or ask another server.",
    )


class AdmissionMiddleware:
    """Gives POST requests to `routes` a slot, reads their body, and cancels them if their client
    disconnects.

    routes: by path. admit: returns a slot for a body of a given size and a key, or
    raises ApiError.

    `scope["state"]` gets the request's `slot`, its body as `json`, and `resources`, an exit stack
    of what the request holds (its slot, its jobs). Resources are released when the request ends,
    however it ends, and before the last part of the response is sent: a client that has its answer
    finds the slot free.
    """

    def __init__(
        self,
        app: ASGIApp,
        admit: Callable[[int, ApiKey | None], Slot],
        routes: Mapping[str, Any],
        max_bytes: int,
    ) -> None:
        self._app = app
        self._admit = admit
        self._routes = routes
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit a request, or send the error of the route that it did not reach."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        route = self._routes.get(scope["path"])
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        async with AsyncExitStack() as resources:
            try:
                complete = await self._prepare(scope, receive, resources)
            except ApiError as error:
                await resources.aclose()
                await error.response()(scope, receive, send)
                return
            if complete:
                await self._run(scope, resources, receive, send)

    async def _prepare(self, scope: Scope, receive: Receive, resources: AsyncExitStack) -> bool:
        """Take a slot and read the body; False if the client left before it was complete."""
        headers = Headers(scope=scope)
        size = declared_size(headers, self._max_bytes)
        slot = self._admit(size, scope.get("state", {}).get("key"))
        resources.callback(slot.release)
        state = scope.setdefault("state", {})
        state["slot"], state["resources"] = slot, resources
        body = await self._read(receive, slot)
        if body is None:
            return False
        check_content_type(headers, scope["path"])
        state["json"] = parse_body(body)
        # What the routes take, whatever the client called it.
        others = [one for one in scope["headers"] if one[0] != b"content-type"]
        scope["headers"] = [*others, (b"content-type", b"application/json")]
        return True

    async def _read(self, receive: Receive, slot: Slot) -> bytes | None:
        start = asyncio.get_running_loop().time()
        late = ApiError(408, "slow_request", "The request's body took too long to arrive.")

        def on_piece(size: int, received: int) -> None:
            slot.reserve(size)
            timeout.reschedule(min(slot.until, start + seconds_allowed(received)))

        async with slot.deadline(min(slot.until, start + seconds_allowed(0)), late) as timeout:
            return await read_body(receive, self._max_bytes, on_piece)

    async def _run(
        self, scope: Scope, resources: AsyncExitStack, receive: Receive, send: Send
    ) -> None:
        async def send_and_release(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                await resources.aclose()
            await send(message)

        app = self._app(scope, _receive_nothing, send_and_release)
        await _run_until(_disconnected(receive), app)


async def _receive_nothing() -> Message:
    return await asyncio.get_running_loop().create_future()  # a disconnect cancels it


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _run_until(stop: Awaitable[None], work: Awaitable[Any]) -> None:
    """Do the work; cancel it if `stop` comes first."""
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
