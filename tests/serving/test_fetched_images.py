"""Images that a server fetches, through the API: from allowed hosts, and no others.

A file server on the loopback stands for one inside one's own network. It counts who comes.
"""

import io
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from tests.conftest import Outcome
from tests.serving.conftest import Server, data_url, scene, start, stop
from tests.shared import until


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Files)
        server.seen.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        if self.path == "/slow.png":
            server.let_go.wait()
        if self.path != "/scene.png":
            self.send_error(404)
            return
        file = io.BytesIO()
        scene(3).save(file, "PNG")
        self.send_response(200)
        self.send_header("Content-Length", str(len(file.getvalue())))
        self.end_headers()
        self.wfile.write(file.getvalue())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on standard error."""


class Files(ThreadingHTTPServer):
    """Serves one image, and redirects requests for `/to/URL`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[str] = []
        self.let_go = threading.Event()

    def url(self, path: str, host: str = "localhost") -> str:
        return f"http://{host}:{self.server_port}/{path}"


@pytest.fixture(scope="module")
def files() -> Iterator[Files]:
    with Files() as running:
        threading.Thread(target=running.serve_forever, args=[0.01], daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(scope="module")
def fetching(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that may fetch from the file server by one name."""
    options = ["--allow-image-hosts", "localhost", "--allow-image-networks", "127.0.0.1, ::1"]
    options += ["--allow-image-ports", str(files.server_port)]
    running = start(tmp_path_factory.mktemp("fetching") / "log", *options)
    yield running
    stop(running)


def ask(server: Server, url: str) -> httpx.Response:
    return server.post("/v1/vlv/caption", image=url, max_new_tokens=8)


def test_an_image_of_an_allowed_host_is_fetched(fetching: Server, files: Files) -> None:
    sent = ask(fetching, data_url(scene(3)))
    files.seen.clear()
    assert ask(fetching, files.url("scene.png")).json() == sent.json()
    assert ask(fetching, files.url(f"to/{files.url('scene.png')}")).json() == sent.json()
    assert files.seen[0] == files.seen[-1] == "/scene.png"


def test_hosts_that_are_not_allowed_are_not_contacted(fetching: Server, files: Files) -> None:
    """Directly, and at the end of a redirect."""
    port = files.server_port
    for url in (
        files.url("scene.png", "127.0.0.1"),
        files.url("scene.png", "[::1]"),
        files.url("scene.png", "images.example"),
        "http://localhost:1/scene.png",
        "http://169.254.169.254/latest",
        f"http://user@localhost:{port}/scene.png",
    ):
        for asked, expected in ((url, []), (files.url(f"to/{url}"), [f"/to/{url}"])):
            files.seen.clear()
            answer = ask(fetching, asked)
            assert answer.status_code == 400, asked
            assert files.seen == expected
            error = answer.json()["error"]
            assert error["code"] in ("refused-address", "bad-url")
            assert error["param"] == "image"
            assert not re.search(r"\d|::|localhost|example", error["message"])


def test_a_fetched_file_that_is_no_image(fetching: Server, files: Files) -> None:
    missing = ask(fetching, files.url("nothing.png"))
    assert (missing.status_code, missing.json()["error"]["code"]) == (422, "not-fetched")
    assert "localhost" not in missing.json()["error"]["message"]


def test_slow_hosts_hold_up_nothing_else(fetching: Server, files: Files) -> None:
    """Few files at once, and a worker that died is replaced meanwhile."""
    files.seen.clear()
    with ThreadPoolExecutor(40) as threads:
        answers = [threads.submit(ask, fetching, files.url("slow.png")) for _ in range(40)]
        try:
            until(lambda: len(files.seen) >= 8)
            fetching.end_worker()
            until(lambda: fetching.client.get("/ready").status_code == 503)
            until(lambda: fetching.client.get("/ready").status_code == 200)
        finally:
            files.let_go.set()
    assert {answer.result().status_code for answer in answers} == {422}


def test_nothing_is_fetched_if_no_host_is_allowed(server: Server, files: Files) -> None:
    files.seen.clear()
    answer = ask(server, files.url("scene.png"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "image_urls_disabled")
    assert files.seen == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--allow-image-hosts", "http://a.test"),
        ("--allow-image-ports", "80,http"),
        ("--allow-image-networks", "10.0.0.0/99"),
    ],
)
def test_invalid_options_are_refused(option: str, value: str, vlv: Callable[..., Outcome]) -> None:
    options = [option, value]
    if option != "--allow-image-hosts":
        options += ["--allow-image-hosts", "a.test"]
    refused = vlv("serve", *options)
    assert refused.code == 2
    assert value in refused.err
