"""Who gets in: with a key, without one, and with a path that tries to be two things."""

import socket
from pathlib import Path

import pytest
from tests.serving.conftest import KEY, Server

from vlv.cli.app import main

ROUTES = [
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("POST", "/v1/vlv/caption"),
    ("POST", "/v1/vlv/encode"),
    ("POST", "/v1/vlv/verify"),
    ("POST", "/v1/vlv/reconstruct"),
    ("POST", "/v1/vlv/compose"),
    ("GET", "/v1/vlv/scene?seed=1"),
    ("GET", "/v1/vlv/info"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
]
SPELLINGS = [
    "//v1/models",
    "/v1//models",
    "/./v1/models",
    "/static/../v1/models",
    "/static/%2e%2e/v1/models",
    "/v1/%6dodels",
    "/V1/models",
    "/health/../v1/models",
    "/health%2f..%2fv1%2fmodels",
    "/ready/v1/models",
    "/v1/models/",
    "/v1/models;health",
    "http://127.0.0.1/v1/models",
    "/nothing",
]


def status(server: Server, method: str, target: str, *headers: str) -> int:
    """Of a request as it is written, which no client would tidy."""
    port = int(server.url.rpartition(":")[2])
    lines = [f"{method} {target} HTTP/1.1", "Connection: close", "Content-Length: 0", *headers]
    if not any(line.lower().startswith("host:") for line in headers):
        lines.insert(1, f"Host: 127.0.0.1:{port}")
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return int(connection.makefile("rb").readline().split()[1])


@pytest.mark.parametrize(("method", "target"), ROUTES)
def test_every_route_needs_the_key(keyed: Server, method: str, target: str) -> None:
    for headers in (
        [],
        ["Authorization: Bearer wrong"],
        ["Authorization: Bearer"],
        [f"Authorization: Basic {KEY}"],
        [f"Authorization: Bearer {KEY}x"],
        ["Host: localhost"],
        ["Authorization: Bearer wrong", f"Authorization: Bearer {KEY}"],
    ):
        assert status(keyed, method, target, *headers) == 401, headers
    assert status(keyed, method, target, f"Authorization: Bearer {KEY}") != 401
    assert status(keyed, method, target, "Authorization: bearer another-key") != 401


@pytest.mark.parametrize("target", SPELLINGS)
def test_no_spelling_of_a_path_goes_around_the_key(keyed: Server, target: str) -> None:
    assert status(keyed, "GET", target) == 401


def test_what_is_open(keyed: Server) -> None:
    for target in ("/health", "/ready"):
        assert status(keyed, "GET", target) == 200
    assert status(keyed, "GET", "/static/nothing.js") == 404


def test_without_a_key_only_this_machine_is_served(
    server: Server, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert status(server, "GET", "/v1/models", "Host: rebound.example") == 401
    assert status(server, "GET", "/v1/models", "Host: localhost:1") == 200
    for options in (["--host", "0.0.0.0"], ["--host", "::"]):
        with pytest.raises(SystemExit) as stopped:
            main(["serve", *options])
        assert stopped.value.code == 2
        assert "without a key, only this machine" in capfd.readouterr().err
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(SystemExit):
        main(["serve", "--api-key-file", str(tmp_path / "empty")])
    assert "holds no key" in capfd.readouterr().err
