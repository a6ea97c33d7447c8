"""Server-sent events over the loopback: values, comments that keep a connection alive, errors."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import pytest
import uvicorn
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tests.shared import until

from vlv.serving.api import streams
from vlv.serving.api.context import RequestContext
from vlv.serving.api.streams import stream_response
from vlv.serving.errors import ApiError
from vlv.serving.telemetry import Metrics, TelemetryMiddleware, outcome

PAUSE = 0.5


class Piece(BaseModel):
    text: str


@dataclass
class Context:
    """What a stream needs of the context of a request."""

    request: Request
    released: list[str] = field(default_factory=list)

    async def release(self) -> None:
        self.released.append(self.request.url.path)


async def slow(path: str) -> AsyncIterator[BaseModel]:
    yield Piece(text="A")
    await asyncio.sleep(PAUSE)
    if path == "/late":
        raise ApiError(504, "deadline_exceeded", "Too late.")
    yield Piece(text=" cube.")


async def stream(request: Request) -> Response:
    request.state.slot = None
    context = cast(RequestContext, Context(request))
    return await stream_response(context, slow(request.url.path))


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture(scope="module")
def client(metrics: Metrics) -> Iterator[httpx.Client]:
    """A client of a server of streams that pause after their first piece."""
    app: Any = Starlette(routes=[Route(path, stream) for path in ("/whole", "/late")])
    config = uvicorn.Config(
        TelemetryMiddleware(app, metrics), port=0, log_config=None, lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as opened:
        yield opened
    server.should_exit = True
    thread.join()


def lines_of(client: httpx.Client, path: str) -> list[str]:
    with client.stream("GET", path) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        return [line for line in response.iter_lines() if line]


def test_comments_keep_a_silent_stream_alive(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE_SECONDS", PAUSE / 5)
    lines = lines_of(client, "/whole")
    comments = [line for line in lines if line.startswith(":")]
    assert 1 <= len(comments) <= 5
    # They come while there is nothing else, and are no events.
    assert lines.index(comments[0]) == 1
    assert [line for line in lines if line not in comments] == [
        'data: {"text":"A"}',
        'data: {"text":" cube."}',
        "data: [DONE]",
    ]


def test_a_stream_that_moves_has_no_comments(client: httpx.Client) -> None:
    assert streams.KEEP_ALIVE_SECONDS == 15  # below the 60 s after which nginx gives up by default
    assert not [line for line in lines_of(client, "/whole") if line.startswith(":")]


def test_a_stream_that_fails_is_counted_by_its_error(
    client: httpx.Client, metrics: Metrics
) -> None:
    def finished(outcome: str) -> float:
        labels = {"outcome": outcome}
        return metrics.registry.get_sample_value("vlv_finished_total", labels) or 0

    before = {name: finished(name) for name in ("ok", "deadline")}
    assert len(lines_of(client, "/whole")) == 3
    lines = lines_of(client, "/late")
    assert '"code":"deadline_exceeded"' in lines[1] and lines[2] == "data: [DONE]"
    until(lambda: finished("deadline") == before["deadline"] + 1)
    assert finished("ok") == before["ok"] + 1


def test_errors_of_clients_are_no_errors_of_the_server() -> None:
    outcomes = {
        "ok": (200,),
        "client_error": (400, 404, 408, 413, 415, 429),
        "image_refused": (422,),
        "client_gone": (499,),
        "not_supported": (501,),
        "deadline": (504,),
        "server_error": (500, 503),
    }
    assert {name: tuple(map(outcome, found)) for name, found in outcomes.items()} == {
        name: (name,) * len(found) for name, found in outcomes.items()
    }
