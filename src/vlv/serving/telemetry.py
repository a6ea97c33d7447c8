"""One JSON object a line on standard error: requests by id and outcome, never what is in them.

A request's id is the client's `X-Request-Id` if that is a plain word, or a new one; the answer
carries it too.
"""

import json
import logging
import re
import sys
import time
import uuid
from datetime import UTC, datetime

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlv.serving.metrics import Metrics
from vlv.text import printable

LOGGER = logging.getLogger("vlv.serving")
_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CLIENT_GONE = 499
_OUTCOMES = {200: "ok", 422: "image_refused", _CLIENT_GONE: "client_gone", 504: "deadline"}


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class _Seldom(logging.Filter):
    """Lets the same message of a library through once a second: clients can cause any number."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        message = str(record.msg)[:40]
        if record.created - self._last.get(message, 0) < 1:
            return False
        self._last[message] = record.created
        return True


def log_json() -> None:
    """Send the service's own messages, and its libraries', to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    for name in ("vlv.serving", "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    LOGGER.setLevel(logging.INFO)
    for name in ("uvicorn.error", "asyncio"):
        library = logging.getLogger(name)
        library.setLevel(logging.WARNING)
        library.addFilter(_Seldom())


def log(event: str, **fields: object) -> None:
    """Write a line about the service itself."""
    shown = {
        name: printable(value) if isinstance(value, str) else value
        for name, value in fields.items()
    }
    LOGGER.info(event, extra={"fields": shown})


class RequestLog:
    """The outermost layer: gives a request its id, and writes and counts how it ended."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count and log a request when it has ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        status, complete, start = 0, False, time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                complete = True

        try:
            await self._app(scope, receive, watched)
        finally:
            self._ended(scope, request_id, status if complete else _CLIENT_GONE, start)

    def _ended(self, scope: Scope, request_id: str, status: int, start: float) -> None:
        seconds = time.perf_counter() - start
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.latency.labels(route).observe(seconds)
        if "slot" in scope.get("state", {}):
            outcome = scope["state"].get("outcome") or _OUTCOMES.get(status, "error")
            self._metrics.finished.labels(outcome).inc()
        log(
            "request",
            request_id=request_id,
            method=scope["method"],
            route=route,
            status=status,
            ms=round(1000 * seconds, 1),
        )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _PLAIN_ID.fullmatch(value.decode("latin-1")):
            return value.decode("latin-1")
    return uuid.uuid4().hex
