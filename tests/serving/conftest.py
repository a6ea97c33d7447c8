"""Real servers: `vlv serve` as a process of its own on a free port of the loopback interface."""

import base64
import io
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from tests import launcher
from tests.shared import free_port, until

from vlv.pipeline import VLV
from vlv.world.render import render
from vlv.world.scene import sample_scene

START_SECONDS = 120
KEY = "a-key-for-tests"
_running: list["Server"] = []


@dataclass
class Server:
    """A running server and a client of it; `restarts` counts the restarts that tests caused."""

    process: subprocess.Popen[bytes]
    url: str
    client: httpx.Client
    log: Path
    restarts: int = 0

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's values with these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        total = 0.0
        for line in self.client.get("/metrics").text.splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(one in series for one in wanted):
                total += float(value)
        return total

    def worker(self) -> psutil.Process:
        """The process that holds the model."""
        children = psutil.Process(self.process.pid).children()
        return max(children, key=lambda child: child.memory_info().rss)

    def end_worker(self, by: signal.Signals = signal.SIGKILL) -> None:
        """Kill the worker, or stop it for good, so that another one is started."""
        self.restarts += 1
        self.worker().send_signal(by)

    def check_worker(self) -> None:
        """No worker died except those that tests killed."""
        if self.process.poll() is None:
            # An answer that was complete may have come before the server saw the worker's end.
            until(lambda: self.metric("vlv_worker_restarts_total") >= self.restarts)
            assert self.metric("vlv_worker_restarts_total") == self.restarts


def start(
    log: Path,
    *options: str,
    key: str | None = None,
    program: tuple[str, str] = ("-m", "vlv.cli"),
) -> Server:
    port = free_port()
    command = [sys.executable, *program, "serve", "--port", str(port), *options]
    with open(log, "wb") as errors:
        process = launcher.Popen(command, stderr=errors)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = f"http://127.0.0.1:{port}"
    server = Server(process, url, httpx.Client(base_url=url, headers=headers, timeout=120), log)

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return server.client.get("/ready").status_code == 200
        except httpx.TransportError:  # nothing listens yet, or it has just ended
            return False

    until(ready, START_SECONDS)
    _running.append(server)
    return server


def stop(server: Server) -> None:
    _running.remove(server)
    try:
        server.check_worker()
    finally:
        server.client.close()
        server.process.kill()
        server.process.wait()


@pytest.fixture(autouse=True)
def no_worker_dies() -> Iterator[None]:
    """In every test, of the page too, workers die only if the test kills them."""
    yield
    for server in _running:
        server.check_worker()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server with options; it ends with the test."""
    servers: list[Server] = []

    def run(*options: str, **more: Any) -> Server:
        servers.append(start(tmp_path / f"{len(servers)}.log", *options, **more))
        return servers[-1]

    yield run
    for server in servers:
        stop(server)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without a key, for requests that do not change it."""
    running = start(tmp_path_factory.mktemp("server") / "log")
    yield running
    stop(running)


@pytest.fixture(scope="session")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with keys from a file in Windows' format, for requests that do not change it."""
    folder = tmp_path_factory.mktemp("keyed")
    limited = "ann: a-limited-key requests-per-minute=3 images-per-day=1"
    keys = f"another-key\n\n{KEY}\n{limited}\n"
    (folder / "keys").write_text(keys, encoding="utf-16", newline="\r\n")
    options = ["--api-key-file", str(folder / "keys"), "--served-model-name", "mini\x1b[2J\n"]
    options += ["--quota-file", str(folder / "used.json")]
    running = start(folder / "log", *options, key=KEY)
    yield running
    stop(running)


@pytest.fixture(scope="session")
def mini() -> VLV:
    """The model of the servers, in this process."""
    return VLV.from_pretrained("vlv-mini")


def scene(seed: int) -> Image.Image:
    return Image.fromarray(render(sample_scene(seed, "test")))


def data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def pixels(url: str) -> np.ndarray:
    """The picture of a data URL."""
    data = base64.b64decode(url.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)
