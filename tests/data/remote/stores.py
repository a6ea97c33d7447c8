"""A real S3 server (moto's) in a process of its own, and a proxy before it that misbehaves.

    python -m tests.data.remote.stores

The process prints two ports, of the server and of the proxy, and serves until its input ends.
"""

import fcntl
import http.client
import json
import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

BUCKET = "shards"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI"}


@dataclass(frozen=True)
class Store:
    """A running server; `bad` is the address of the proxy."""

    good: str
    bad: str

    def environment(self, *, bad: bool = False) -> dict[str, str]:
        """What a user of the store sets."""
        address = self.bad if bad else self.good
        return {**KEYS, "AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}

    def behave(self, fail: float = 0.1, slow: float = 0.1, seconds: float = 0.3) -> None:
        """Of the proxy's answers, the share `fail` is a 500, and as many are cut in half; the
        share `slow` of contents is late by so many seconds.
        """
        urlopen(f"{self.bad}/-/{fail}/{slow}/{seconds}").close()

    def answers(self) -> dict[str, int]:
        """How often each file's content was asked of the proxy."""
        with urlopen(f"{self.bad}/-/answers") as answer:
            return dict(json.load(answer))

    def put(self, folder: Path, prefix: str, pattern: str = "*") -> None:
        """Upload the files of a folder."""
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=self.good,
            region_name="us-east-1",
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )
        client.create_bucket(Bucket=BUCKET)
        for path in sorted(folder.glob(pattern)):
            client.upload_file(str(path), BUCKET, f"{prefix}/{path.name}")


@contextmanager
def running() -> Iterator[Store]:
    """A store in a process of its own."""
    command = [sys.executable, "-m", "tests.data.remote.stores"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        good, bad = process.stdout.readline().split()
        yield Store(*(f"http://127.0.0.1:{int(port)}" for port in (good, bad)))
        process.stdin.close()


def bytes_in(cache: Path) -> int:
    """The bytes that a shard cache holds, counted while it makes no room for others."""
    if not (cache / "shards").exists():
        return 0
    total = 0
    with open(cache / "lock", "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for folder in os.scandir(cache / "shards"):
            with suppress(FileNotFoundError):  # of a download that failed
                total += sum(file.stat().st_size for file in os.scandir(folder))
    return total


class Misbehaving(BaseHTTPRequestHandler):
    """Passes on requests, some of them badly."""

    port: int
    protocol_version = "HTTP/1.1"
    random = random.Random(0)
    fail, slow, seconds = 0.1, 0.1, 0.3
    answers: Counter[str] = Counter()

    def handle_all(self) -> None:
        if self.path.startswith("/-/"):
            self.control(*self.path.split("/")[2:])
            return
        if self.command == "GET":
            self.answers[self.path.rpartition("/")[2]] += 1
        what = self.random.random()
        if what < self.fail:
            self.send_response(500)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if what > 1 - self.slow and self.command == "GET":
            time.sleep(self.seconds)
        upstream = http.client.HTTPConnection("127.0.0.1", self.port)
        upstream.request(self.command, self.path, headers=dict(self.headers))
        answer = upstream.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length", str(len(data)))
        self.send_header("Content-Length", length)
        self.end_headers()
        if what < 2 * self.fail and len(data) > 1:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self.wfile.write(data)

    def control(self, *words: str) -> None:
        if words != ("answers",):
            Misbehaving.fail, Misbehaving.slow, Misbehaving.seconds = map(float, words)
        text = json.dumps(self.answers).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_HEAD = handle_all

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    Misbehaving.port = port
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Misbehaving)
    # Clients that are killed close connections.
    proxy.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    print(port, proxy.server_address[1], flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
