"""A teacher over the loopback that also misbehaves. It counts what it would put on a bill."""

import base64
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROMPT_TOKENS, COMPLETION_TOKENS = 900, 40


def good_caption(image: str) -> str:
    """A caption that names the image, by the hash of what was sent."""
    return (
        f"A glossy red sphere stands beside a small blue cube on a plain brown floor, and the "
        f"number {image} is written on the wall behind them in soft morning light."
    )


@dataclass
class Reply:
    """What the server sends; `cut` closes the connection in the middle of it."""

    text: str = ""
    finish: str = "stop"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    delay: float = 0.0
    cut: bool = False
    usage: bool = True


Script = Callable[[str, int], Reply]
"""The reply to the n-th request (from 1) for an image."""


class Teacher:
    """The server's books."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.paths: set[str] = set()
        self.at_a_time = self.most_at_a_time = 0
        self.lock = threading.Lock()
        self.url = ""

    def reply(self, body: dict[str, Any]) -> tuple[Reply, str]:
        """The reply to a request, entered in the books."""
        (url,) = [
            part["image_url"]["url"]
            for part in body["messages"][-1]["content"]
            if part["type"] == "image_url"
        ]
        data = base64.b64decode(url.removeprefix("data:image/jpeg;base64,"), validate=True)
        image = hashlib.sha256(data).hexdigest()[:12]
        with self.lock:
            self.bodies.append(body)
            self.asked[image] += 1
            reply = self.script(image, self.asked[image])
            self.paid[image] += reply.status == 200
        return reply, image


@contextmanager
def running(script: Script, books: type[Teacher] = Teacher) -> Iterator[Teacher]:
    """A server on a free port."""
    teacher = books(script)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            with teacher.lock:
                teacher.at_a_time += 1
                teacher.most_at_a_time = max(teacher.most_at_a_time, teacher.at_a_time)
            try:
                reply = self._reply()
            finally:
                # Before the client can send the next one, since it knows nothing of this thread.
                with teacher.lock:
                    teacher.at_a_time -= 1
            self._answer(reply)

        def _reply(self) -> Reply:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            teacher.keys.add(self.headers["Authorization"])
            teacher.paths.add(self.path)
            reply, _ = teacher.reply(body)
            threading.Event().wait(reply.delay)
            return reply

        def _answer(self, reply: Reply) -> None:
            content = reply.raw if reply.raw is not None else _completion(reply)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if reply.cut else content)
            self.close_connection = reply.cut

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: Any) -> None:
            pass  # clients are killed in these tests

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    teacher.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield teacher
    finally:
        server.shutdown()
        server.server_close()


def _completion(reply: Reply) -> bytes:
    if reply.status != 200:
        return json.dumps({"error": {"message": reply.text, "code": reply.finish}}).encode()
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": reply.text},
        "finish_reason": reply.finish,
    }
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS}
    body = {"choices": [choice], **({"usage": usage} if reply.usage else {})}
    return json.dumps(body).encode()
