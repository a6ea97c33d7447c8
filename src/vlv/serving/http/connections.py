"""Connections of clients: how many there may be, how long each may take, and what is no request.

Extends uvicorn's protocol on h11, which bounds the size of a head but neither its time nor the
number of connections, and takes a bare line feed for the end of a line. Knows nothing of what is
asked.
"""

import asyncio
import re
import sys
from http import HTTPStatus
from typing import Any

import h11
from h11._receivebuffer import ReceiveBuffer
from uvicorn.protocols.http.h11_impl import H11Protocol

from vlv.serving.errors import ApiError
from vlv.serving.metrics import Metrics

# Of one burst of new connections, before the number of all is looked at.
BACKLOG = 128
# Open files of the rest of the server, and a burst.
_RESERVED_FILES = 64 + BACKLOG
_FEWEST = 16
_LONGEST_HEAD = 16 * 1024
_HEAD_SECONDS = 10.0
# For what is left of a body that was refused: a client that is cut off at once sees no answer.
_REST_SECONDS = 10.0
# Of a client that reads nothing of its answer, and again after it has read some.
_STALLED_SECONDS = 30.0
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")


def connection_limit(wanted: int) -> int:
    """As many connections as are wanted, or as leave enough of the files that may be open."""
    if sys.platform == "win32":
        return wanted
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(_FEWEST, files - _RESERVED_FILES))


class Connection(H11Protocol):
    """One connection. `most` is the number of all; beyond it the one that has been idle longest
    gives way, and where none is idle the new one gets 503. Who has not read its answer is not idle.
    """

    most: int
    metrics: Metrics

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room, or refuse; then the head has its time."""
        super().connection_made(_Lingering(transport, self))  # type: ignore[arg-type]
        self._socket = transport
        # Writing is paused, and a clock runs, whenever something waits to be read.
        transport.set_write_buffer_limits(high=0)
        self._discards = False
        self._lines = _StrictLines()
        self.conn._receive_buffer = self._lines
        self._owed: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._idle_since = self.loop.time()
        if self._has_room():
            self._tend()
        else:
            self.metrics.refused.labels("connections").inc()
            self._refuse(
                ApiError(
                    503, "too_many_connections", "All connections are in use; try again later."
                )
            )

    def data_received(self, data: bytes) -> None:
        """Take what came, and look what is owed now."""
        if self._discards:
            return
        super().data_received(data)
        self._tend()

    def on_response_complete(self) -> None:
        """Idle, unless some of the request is still to come."""
        self._idle_since = self.loop.time()
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._tend()

    def send_400_response(self, msg: str) -> None:
        """Say in a sentence why this is no request, as far as an answer can still be sent."""
        self.metrics.refused.labels("malformed").inc()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(self._complaint())
        else:
            self._end()

    def close(self) -> None:
        """Close; where some of the request is still to come, only once it has or has had its time.

        Closed at once, the system would tell the client that its connection broke, and the client
        would never see the answer.
        """
        if self.conn.their_state in (h11.SEND_BODY, h11.ERROR) and self._socket.can_write_eof():
            if not self._discards:
                self._discards = True
                self._socket.write_eof()
                self.loop.call_later(_REST_SECONDS, self._socket.abort)
        else:
            self._socket.close()

    def pause_writing(self) -> None:
        """The client does not read; it has some time to go on."""
        super().pause_writing()
        self._allow(self._socket.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._cancel_stalled()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the clocks."""
        self._unset_keepalive_if_required()
        self._cancel_timer()
        self._cancel_stalled()
        super().connection_lost(exc)

    def _allow(self, unread: int) -> None:
        self._stalled = self.loop.call_later(_STALLED_SECONDS, self._give_up, unread)

    def _give_up(self, unread: int) -> None:
        """End, unless some of what was unread has been read."""
        left = self._socket.get_write_buffer_size()
        if left < unread:
            self._allow(left)
        else:
            self._socket.abort()

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _has_room(self) -> bool:
        if len(self.connections) <= self.most:
            return True
        idle = [
            one
            for one in self.connections
            if isinstance(one, Connection) and one._idle and one._stalled is None
            if one is not self
        ]
        if not idle:
            return False
        oldest = min(idle, key=lambda one: one._idle_since)
        self.connections.discard(oldest)  # before the loop tells it, so that it goes once
        oldest.transport.abort()
        return True

    def _tend(self) -> None:
        """Start the clock of what the client owes, unless it runs already."""
        owed = None
        if self.conn.their_state is h11.IDLE:
            owed = "head"
        elif self.conn.their_state is h11.SEND_BODY and self._idle:
            owed = "rest"
        if owed == self._owed:
            return
        self._cancel_timer()
        self._owed = owed
        if owed is not None:
            seconds = _HEAD_SECONDS if owed == "head" else _REST_SECONDS
            self._timer = self.loop.call_later(seconds, self._expired)

    def _expired(self) -> None:
        if self.transport.is_closing():
            return
        if self._owed == "head" and self._lines:
            message = f"The request's head took longer than {_HEAD_SECONDS:g} s to arrive."
            self._refuse(ApiError(408, "slow_request", message))
        else:
            self._end()

    def _complaint(self) -> ApiError:
        if self._lines.complaint is not None:
            return self._lines.complaint
        return ApiError(400, "malformed_request", "This is not an HTTP/1.1 request.")

    def _refuse(self, error: ApiError) -> None:
        """Answer what never came to be a request, and end."""
        answer = error.response()
        head = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}", "Connection: close"]
        head += [
            f"{name.decode('latin-1')}: {value.decode('latin-1')}"
            for name, value in answer.raw_headers
        ]
        self.transport.write("\r\n".join([*head, "", ""]).encode("latin-1") + bytes(answer.body))
        self._end()

    def _end(self) -> None:
        """Close, and not wait for a client that does not read what is left."""
        self.transport.close()
        self.loop.call_later(_REST_SECONDS, self.transport.abort)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cancel_stalled(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


class _Lingering:
    """The transport that uvicorn is given: closing it is for the connection to decide."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport = transport
        self.close = connection.close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _StrictLines(ReceiveBuffer):
    """h11's buffer; a head that another server could read in another way is refused.

    `complaint` says why.
    """

    complaint: ApiError | None = None

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """The lines of a head, once it is complete.

        Raises:
            LocalProtocolError: it can be read in two ways.
        """
        if not self._data.startswith(b"\r\n"):
            end = self._data.find(b"\r\n\r\n")
            head = self._data if end < 0 else self._data[:end]
            if len(head) > _LONGEST_HEAD:
                message = f"The request's head is longer than {_LONGEST_HEAD // 1024} kB."
                raise self._refused(message, 431, "head_too_large")
            if _BARE_LINE_FEED.search(head):
                raise self._refused("Lines of a request's head end in CR LF, not in a bare LF.")
        lines: list[bytearray] | None = super().maybe_extract_lines()
        names = {bytes(line.partition(b":")[0]).strip().lower() for line in lines or ()}
        if b"transfer-encoding" in names:
            if b"content-length" in names:
                raise self._refused(
                    "A request has a Content-Length or a Transfer-Encoding, not both."
                )
            if lines and lines[0].endswith(b"HTTP/1.0"):
                raise self._refused("A request of HTTP/1.0 has no Transfer-Encoding.")
        return lines

    def _refused(
        self, message: str, status: int = 400, code: str = "malformed_request"
    ) -> h11.LocalProtocolError:
        self.complaint = ApiError(status, code, message)
        return h11.LocalProtocolError(message)
