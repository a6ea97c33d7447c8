"""Connections of clients: their number, the time that each may take, and malformed requests.

Extends uvicorn's protocol on h11, which limits the size of a request's head but neither its time
nor the number of connections, and accepts a bare line feed as the end of a line. This file knows
nothing of the API.
"""

import asyncio
import re
import resource
from http import HTTPStatus
from typing import Any, Literal

import h11
from h11._receivebuffer import ReceiveBuffer
from uvicorn.protocols.http.h11_impl import H11Protocol

from vlv.serving.errors import ApiError
from vlv.serving.telemetry import Metrics

# New connections in one burst, before their total number is checked.
BACKLOG = 128
# Open files of the rest of the server, and of a burst.
_RESERVED_FILES = 64 + BACKLOG
_MIN_CONNECTIONS = 16
_MAX_HEAD_BYTES = 16 * 1024
_HEAD_SECONDS = 10.0
# For the rest of a body that was refused: a client that is disconnected at once sees no answer.
_REST_SECONDS = 10.0
# For a client that reads nothing of its answer; starts again whenever it has read something.
_STALLED_SECONDS = 30.0
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")


def connection_limit(wanted: int) -> int:
    """The wanted number of connections, or as many as leave enough of the files allowed to open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(_MIN_CONNECTIONS, files - _RESERVED_FILES))


class Connection(H11Protocol):
    """One connection.

    Beyond `max_connections`, the connection that has been idle longest is closed. If none is idle,
    the new one gets 503. A connection whose client has not read its answer is not idle.
    """

    max_connections: int
    metrics: Metrics

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room or refuse, then start the timeout of the head."""
        super().connection_made(_LingeringTransport(transport, self))  # type: ignore[arg-type]
        self._socket = transport
        # Writing pauses, and a timeout runs, whenever the client has something to read.
        transport.set_write_buffer_limits(high=0)
        self._discarding = False
        self._lines = _StrictLines()
        self.conn._receive_buffer = self._lines
        self._awaited: Literal["head", "rest"] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._idle_since = self.loop.time()
        if self._make_room():
            self._update_timeout()
        else:
            self.metrics.refused.labels("connections").inc()
            self._refuse(
                ApiError(
                    503, "too_many_connections", "All connections are in use; try again later."
                )
            )

    def data_received(self, data: bytes) -> None:
        """Handle data, then set the timeout for what must arrive next."""
        if self._discarding:
            return
        super().data_received(data)
        self._update_timeout()

    def _unsupported_upgrade_warning(self) -> None:
        # uvicorn would advise to install a library for WebSockets. The request gets an answer.
        pass

    def on_response_complete(self) -> None:
        """The connection is idle, unless the rest of the request has not arrived."""
        self._idle_since = self.loop.time()
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._update_timeout()

    def send_400_response(self, msg: str) -> None:
        """Say why this is no valid request, if an answer can still be sent."""
        self.metrics.refused.labels("malformed").inc()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(self._malformed())
        else:
            self._close_soon()

    def close(self) -> None:
        """Close; if the rest of a request is still arriving, wait for it or for its timeout.

        After an immediate close, the operating system would report a broken connection to the
        client, and the client would never see the answer.
        """
        if self.conn.their_state in (h11.SEND_BODY, h11.ERROR) and self._socket.can_write_eof():
            if not self._discarding:
                self._discarding = True
                self._socket.write_eof()
                self.loop.call_later(_REST_SECONDS, self._socket.abort)
        else:
            self._socket.close()

    def pause_writing(self) -> None:
        """The client does not read; it has some time to continue."""
        super().pause_writing()
        self._start_stall_timer(self._socket.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._cancel_stall_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        self._unset_keepalive_if_required()
        self._cancel_timer()
        self._cancel_stall_timer()
        super().connection_lost(exc)

    def _start_stall_timer(self, unread: int) -> None:
        self._stall_timer = self.loop.call_later(_STALLED_SECONDS, self._check_stall, unread)

    def _check_stall(self, unread: int) -> None:
        """Abort, unless the client has read some of what was unread."""
        still_unread = self._socket.get_write_buffer_size()
        if still_unread < unread:
            self._start_stall_timer(still_unread)
        else:
            self._socket.abort()

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _make_room(self) -> bool:
        if len(self.connections) <= self.max_connections:
            return True
        idle = [
            one
            for one in self.connections
            if isinstance(one, Connection) and one._idle and one._stall_timer is None
            if one is not self
        ]
        if not idle:
            return False
        oldest = min(idle, key=lambda one: one._idle_since)
        self.connections.discard(oldest)  # before the loop reports its loss: it is counted once
        oldest.transport.abort()
        return True

    def _update_timeout(self) -> None:
        """Start the timeout for what the client must send next, unless it runs already."""
        awaited: Literal["head", "rest"] | None = None
        if self.conn.their_state is h11.IDLE:
            awaited = "head"
        elif self.conn.their_state is h11.SEND_BODY and self._idle:
            awaited = "rest"
        if awaited == self._awaited:
            return
        self._cancel_timer()
        self._awaited = awaited
        if awaited is not None:
            seconds = _HEAD_SECONDS if awaited == "head" else _REST_SECONDS
            self._timer = self.loop.call_later(seconds, self._on_timeout)

    def _on_timeout(self) -> None:
        if self.transport.is_closing():
            return
        if self._awaited == "head" and self._lines:
            message = f"The request's head took longer than {_HEAD_SECONDS:g} s to arrive."
            self._refuse(ApiError(408, "slow_request", message))
        else:
            self._close_soon()

    def _malformed(self) -> ApiError:
        if self._lines.error is not None:
            return self._lines.error
        return ApiError(400, "malformed_request", "This is not an HTTP/1.1 request.")

    def _refuse(self, error: ApiError) -> None:
        """Send an error for data that did not become a request, and close."""
        answer = error.response()
        head = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}", "Connection: close"]
        head += [
            f"{name.decode('latin-1')}: {value.decode('latin-1')}"
            for name, value in answer.raw_headers
        ]
        self.transport.write("\r\n".join([*head, "", ""]).encode("latin-1") + bytes(answer.body))
        self._close_soon()

    def _close_soon(self) -> None:
        """Close, and abort later if the client does not read the rest."""
        self.transport.close()
        self.loop.call_later(_REST_SECONDS, self.transport.abort)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cancel_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None


class _LingeringTransport:
    """The transport that uvicorn sees; the connection decides when it closes."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport = transport
        self.close = connection.close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _StrictLines(ReceiveBuffer):
    """h11's buffer, but refuses a head that another server could read in another way.

    `error` says why a head was refused.
    """

    error: ApiError | None = None

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """The lines of a head, once it is complete.

        Raises:
            LocalProtocolError: the head can be read in two ways.
        """
        if not self._data.startswith(b"\r\n"):
            end = self._data.find(b"\r\n\r\n")
            head = self._data if end < 0 else self._data[:end]
            if len(head) > _MAX_HEAD_BYTES:
                message = f"The request's head is longer than {_MAX_HEAD_BYTES // 1024} kB."
                raise self._refused(message, 431, "head_too_large")
            if _BARE_LINE_FEED.search(head):
                raise self._refused("The lines of a head must end in CR LF, not in a bare LF.")
        lines: list[bytearray] | None = super().maybe_extract_lines()
        names = {bytes(line.partition(b":")[0]).strip().lower() for line in lines or ()}
        if b"transfer-encoding" in names:
            if b"content-length" in names:
                raise self._refused(
                    "A request must have a Content-Length or a Transfer-Encoding, not both."
                )
            if lines and lines[0].endswith(b"HTTP/1.0"):
                raise self._refused("An HTTP/1.0 request must not have a Transfer-Encoding.")
        return lines

    def _refused(
        self, message: str, status: int = 400, code: str = "malformed_request"
    ) -> h11.LocalProtocolError:
        self.error = ApiError(status, code, message)
        return h11.LocalProtocolError(message)
