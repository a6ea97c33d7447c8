"""A small server on the loopback that speaks the Hub's API: a dataset, its tree and its files.

What `huggingface_hub` asks for is answered as the Hub's documentation says. Every third answer is a
503 first, as the Hub gives when it is busy.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from urllib.parse import unquote, urlsplit

REPOSITORY = "someone/pictures"
REVISION = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def running(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a server whose dataset holds the files of a folder, and the paths that were
    asked for.
    """
    asked: list[str] = []
    handler = type("Handler", (_Hub,), {"folder": folder, "asked": asked, "numbers": count()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    asked: list[str]
    numbers: "count[int]"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.asked.append(f"{self.command} {path}")
        if next(self.numbers) % 3 == 2:
            self._send(503, b"{}")
            return
        api, files = f"/api/datasets/{REPOSITORY}", f"/datasets/{REPOSITORY}/resolve/"
        if path in (api, f"{api}/revision/main"):
            self._json({"id": REPOSITORY, "sha": REVISION, "private": False, "siblings": []})
        elif path.startswith(f"{api}/tree/"):
            self._json(self._entries(path.removeprefix(f"{api}/tree/").partition("/")[2]))
        elif path.startswith(files):
            self._file(path.removeprefix(files).partition("/")[2])
        else:
            self._missing()

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """What is known of some paths: `paths-info`."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        asked = json.loads(body)["paths"] if body.startswith("{") else _form(body, "paths")
        self._json([about for name in asked if (about := self._about(name)) is not None])

    def _entries(self, folder: str) -> list[dict[str, object]]:
        inside = sorted((self.folder / folder).iterdir())
        found = (self._about(path.relative_to(self.folder).as_posix()) for path in inside)
        return [about for about in found if about is not None]

    def _about(self, name: str) -> dict[str, object] | None:
        path = self.folder / name
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
        if not path.is_file():
            return None
        data = path.read_bytes()
        oid = hashlib.sha1(data).hexdigest()
        return {"type": "file", "path": name, "oid": oid, "size": len(data)}

    def _file(self, name: str) -> None:
        path = self.folder / name
        if not path.is_file():
            self._missing()
            return
        data, status, extra = path.read_bytes(), 200, {}
        extra["ETag"] = f'"{hashlib.sha1(data).hexdigest()}"'
        if (wanted := self.headers.get("Range")) is not None:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = min(int(last) + 1 if last else len(data), len(data))
            extra["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
            data, status = data[int(first) : end], 206
        extra |= {"X-Repo-Commit": REVISION, "Accept-Ranges": "bytes"}
        self._send(status, data, "application/octet-stream", extra)

    def _missing(self) -> None:
        extra = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
        self._send(404, b'{"error": "Entry not found"}', extra=extra)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode())

    def _send(
        self,
        status: int,
        data: bytes,
        kind: str = "application/json",
        extra: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(data)), **(extra or {})}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def _form(body: str, name: str) -> list[str]:
    pairs = (unquote(one.replace("+", " ")).partition("=") for one in body.split("&"))
    return [value for key, _, value in pairs if key == name]
