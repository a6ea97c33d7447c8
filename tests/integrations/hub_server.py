"""A Hub on this machine that has one private model, and gives it to those with the token."""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

NAME, TOKEN = "me/private", "hf_secret"
COMMITS = {"main": "a" * 40, "v1": "b" * 40}


@contextmanager
def private_hub(model: Path, cache: Path) -> Iterator[list[str]]:
    """Inside, Hugging Face's libraries take this for the Hub, and keep files in `cache`; given are
    the paths that were asked for. `model` is there as the branches main and v1.
    """
    asked: list[str] = []

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            asked.append(path)
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.answer(401, b"", {"X-Error-Code": "RepoNotFound"})
            elif path.startswith(f"/api/models/{NAME}/tree/"):
                self.answer(200, json.dumps(_tree(model)).encode())
            elif path.startswith(f"/api/models/{NAME}"):
                revision = path.rpartition("/revision/")[2] if "/revision/" in path else "main"
                self.answer(200, json.dumps(_about(model, COMMITS[revision])).encode())
            else:
                revision, _, name = path.removeprefix(f"/{NAME}/resolve/").partition("/")
                self.file(model / name, COMMITS.get(revision, revision))

        do_HEAD = do_GET

        def file(self, file: Path, commit: str) -> None:
            if not file.is_file():
                self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
                return
            content = file.read_bytes()
            headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}
            self.answer(200, content, headers)

        def answer(
            self, status: int, content: bytes, headers: dict[str, str] | None = None
        ) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *what: Any) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    with pytest.MonkeyPatch.context() as patch:
        constants = "huggingface_hub.constants"
        patch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
        patch.setattr(f"{constants}.ENDPOINT", address)
        patch.setattr(f"{constants}.HF_HUB_CACHE", str(cache))
        patch.setattr(
            f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        patch.setattr("huggingface_hub.hf_api.api.endpoint", address)
        patch.setattr("transformers.utils.hub._hf_api", None)
        try:
            yield asked
        finally:
            server.shutdown()
            server.server_close()


def _names(model: Path) -> list[str]:
    return [str(path.relative_to(model)) for path in sorted(model.rglob("*")) if path.is_file()]


def _about(model: Path, commit: str) -> dict[str, Any]:
    return {
        "id": NAME,
        "sha": commit,
        "siblings": [{"rfilename": name} for name in _names(model)],
    }


def _tree(model: Path) -> list[dict[str, Any]]:
    return [
        {"type": "file", "path": name, "oid": "0", "size": (model / name).stat().st_size}
        for name in _names(model)
    ]
