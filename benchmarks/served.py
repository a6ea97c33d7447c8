"""A server of its own for a benchmark, what it counts, and timed requests to it.

Knows `vlv serve` and HTTP; knows nothing of what is measured.
"""

import asyncio
import base64
import io
import json
import math
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image
from wire import Wire

from vlv.world.render import render
from vlv.world.scene import sample_scene

START_SECONDS = 120
_SERIES = re.compile(r"(?P<name>\w+)(\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_LONGEST_ANSWER = 600.0

CAPTION, DRAWING = "/v1/vlv/caption", "/v1/vlv/reconstruct"
GONE = 0
"""The status of a request whose connection broke."""


@dataclass(frozen=True)
class Asked:
    """A request as it is sent."""

    path: str
    body: bytes

    @classmethod
    def of(cls, path: str, **fields: Any) -> "Asked":
        return cls(path, json.dumps(fields).encode())


@dataclass(frozen=True)
class Answer:
    """How a request ended; times are of the generator's clock, and `due` is when it should have
    been sent, so that a generator that is late makes no server look fast.
    """

    due: float
    sent: float
    ended: float
    status: int
    code: str

    @property
    def seconds(self) -> float:
        return self.ended - self.due


class Counts:
    """A reading of `/metrics`."""

    def __init__(self, page: str) -> None:
        self._series = [
            (found["name"], dict(_LABEL.findall(found["labels"] or "")), float(found["value"]))
            for line in page.splitlines()
            if (found := _SERIES.fullmatch(line))
        ]

    def sum(self, name: str, **labels: str) -> float:
        return sum(self.by(name, **labels).values())

    def by(self, name: str, **labels: str) -> dict[tuple[str, ...], float]:
        """The values of a metric's series with these labels, by all their labels."""
        return {
            tuple(its.values()): value
            for known, its, value in self._series
            if known == name and labels.items() <= its.items()
        }


class Served:
    """A running server: `watch` reads its state, `ask` sends it work, and so does `load`, of
    answers that are left before their end; each by connections of its own.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process = psutil.Process(process.pid)
        self._url = f"http://127.0.0.1:{port}"
        self.watch, self.load = self.client(), self.client()
        self.wire = Wire("127.0.0.1", port)

    def client(self) -> httpx.AsyncClient:
        """With as many connections as there are requests at once."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
        return httpx.AsyncClient(
            base_url=self._url, limits=limits, timeout=_LONGEST_ANSWER, trust_env=False
        )

    async def counts(self) -> Counts:
        return Counts((await self.watch.get("/metrics")).text)

    async def ready(self) -> bool:
        try:
            return (await self.watch.get("/ready")).status_code == 200
        except httpx.ConnectError:
            return False

    async def idle(self) -> bool:
        """Whether no slot is taken and no job is left of anybody."""
        names = ("vlv_slots_used", "vlv_running", "vlv_queue_depth")
        counts = await self.counts()
        return not any(counts.sum(name) for name in names)

    async def ask(self, asked: Asked, due: float | None = None) -> Answer:
        """Send a request and take its whole answer."""
        sent = time.perf_counter()
        try:
            status, got = await self.wire.post(asked.path, asked.body)
            code = "" if status == 200 else _code(got)
        except (OSError, asyncio.IncompleteReadError) as error:
            status, code = GONE, type(error).__name__
        ended = time.perf_counter()
        return Answer(sent if due is None else due, sent, ended, status, code)

    def worker(self) -> psutil.Process:
        """The process that holds the model: the largest."""
        return max(self.process.children(), key=lambda one: int(one.memory_info().rss))


@asynccontextmanager
async def served(log: Path, threads: int, *options: str) -> AsyncIterator[Served]:
    """A server with the embedded model on a free port of the loopback, once it is ready."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    command = [sys.executable, "-m", "vlv.cli", "serve", "--port", str(port), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    environment.pop("VLV_API_KEY", None)
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stderr=file, env=environment)
    server = Served(process, port)
    try:
        end = time.monotonic() + START_SECONDS
        while not await server.ready():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not start: {log.read_text('utf-8')}")
            await asyncio.sleep(0.1)
        yield server
    finally:
        await server.watch.aclose()
        await server.load.aclose()
        await server.wire.close()
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def until(check: Callable[[], Awaitable[bool]], seconds: float, every: float) -> float:
    """Seconds until something is so.

    Raises:
        TimeoutError: it is not so after `seconds`.
    """
    start = time.perf_counter()
    while not await check():
        if time.perf_counter() - start > seconds:
            raise TimeoutError(f"not so after {seconds:g} seconds")
        await asyncio.sleep(every)
    return time.perf_counter() - start


def scenes(count: int) -> list[str]:
    """Data URLs of scenes that the model was not trained on."""
    return [data_url(Image.fromarray(render(sample_scene(seed, "test")))) for seed in range(count)]


def data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of the values do not exceed; None where there are none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _code(got: bytes) -> str:
    try:
        return str(json.loads(got)["error"]["code"])
    except (ValueError, KeyError):
        return "no error of this API"
