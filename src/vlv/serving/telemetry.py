"""Metrics in Prometheus' format, and a log with one JSON object a line on standard error.

The log names requests by their id and outcome and never contains their content. The id is the
client's `X-Request-Id` if that is a plain word, otherwise a new one; the response carries it too.
"""

import json
import logging
import re
import sys
import time
import uuid
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlv.text import printable

LOGGER = logging.getLogger("vlv.serving")
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OK = 200
_CLIENT_GONE = 499
_OUTCOMES = {
    422: "image_refused",
    _CLIENT_GONE: "client_gone",
    501: "not_supported",
    504: "deadline",
}


class Metrics:
    """The service's metrics, in a registry of their own.

    Every accepted request is finished once: accepted = sum of finished + slots in use; `outcome`
    says how. Every request is counted once in `requests` when it ends; 499 means that the client
    disconnected.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "vlv_requests", "Requests that ended.", ["route", "status"], registry=self.registry
        )
        self.latency = Histogram(
            "vlv_request_seconds",
            "Time to the end of the response.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.accepted = Counter("vlv_accepted", "Requests that got a slot.", registry=self.registry)
        self.finished = Counter(
            "vlv_finished",
            "Requests that released their slot.",
            ["outcome"],
            registry=self.registry,
        )
        self.refused = Counter(
            "vlv_refused", "Requests that got no slot.", ["reason"], registry=self.registry
        )
        self.key_requests = Counter(
            "vlv_key_requests",
            "Requests of a named key that ended.",
            ["key", "status"],
            registry=self.registry,
        )
        self.key_images = Counter(
            "vlv_key_images", "Images that a named key sent.", ["key"], registry=self.registry
        )
        self.slots = Gauge("vlv_slots", "Number of slots.", registry=self.registry)
        self.slots_used = Gauge("vlv_slots_used", "Slots in use.", registry=self.registry)
        self.waiting = Gauge(
            "vlv_queue_depth", "Jobs that the model has not started.", registry=self.registry
        )
        self.running = Gauge("vlv_running", "Jobs that the model works on.", registry=self.registry)
        self.tokens = Counter("vlv_tokens", "Tokens of finished captions.", registry=self.registry)
        self.first_token = Histogram(
            "vlv_time_to_first_token_seconds",
            "From the slot to the first text of a streamed caption.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.restarts = Counter("vlv_worker_restarts", "Workers that died.", registry=self.registry)
        self.ready = Gauge(
            "vlv_ready", "Whether a worker with the model responds.", registry=self.registry
        )

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)


def outcome(status: int) -> str:
    """How a request ended: "ok", "client_error" (4xx) or "server_error" (5xx), with names of their
    own for a refused image, a client that left, what the model cannot do, and a deadline.
    """
    if status in _OUTCOMES:
        return _OUTCOMES[status]
    return "server_error" if status >= 500 else "client_error" if status >= 400 else "ok"


class _JsonFormatter(logging.Formatter):
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


class _OncePerSecond(logging.Filter):
    """Passes the same message of a library once a second, since clients can cause any number."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        message = str(record.msg)[:40]
        if record.created - self._last.get(message, 0) < 1:
            return False
        self._last[message] = record.created
        return True


def log_as_json() -> None:
    """Send the messages of the service and of its libraries to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    for name in ("vlv.serving", "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    LOGGER.setLevel(logging.INFO)
    for name in ("uvicorn.error", "asyncio"):
        library = logging.getLogger(name)
        library.setLevel(logging.WARNING)
        library.addFilter(_OncePerSecond())


def log_error(event: str, **fields: object) -> None:
    """Write a line about what went wrong in the service itself."""
    log(event, logging.ERROR, **fields)


def log(event: str, level: int = logging.INFO, /, **fields: object) -> None:
    """Write a line about the service itself."""
    shown = {
        name: printable(value) if isinstance(value, str) else value
        for name, value in fields.items()
    }
    LOGGER.log(level, event, extra={"fields": shown})


class TelemetryMiddleware:
    """The outermost layer: gives a request its id, and logs and counts how it ended."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run a request, then log and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        status, complete, start = 0, False, time.perf_counter()

        async def observed_send(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                complete = True

        try:
            await self._app(scope, receive, observed_send)
        finally:
            self._record(scope, request_id, status if complete else _CLIENT_GONE, start)

    def _record(self, scope: Scope, request_id: str, status: int, start: float) -> None:
        seconds = time.perf_counter() - start
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.latency.labels(route).observe(seconds)
        if "slot" in scope.get("state", {}):
            # A stream that fails after its first piece has the status 200.
            failed = scope["state"].get("failed", status) if status == _OK else status
            self._metrics.finished.labels(outcome(failed)).inc()
        key = scope.get("state", {}).get("key")
        if key is not None:
            self._metrics.key_requests.labels(key.name, str(status)).inc()
        log(
            "request",
            request_id=request_id,
            **({} if key is None else {"key": key.name}),
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
