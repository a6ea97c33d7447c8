"""Access with a key, without one, and with spellings of a path that try to avoid the check."""

import hashlib
import json
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest
from tests.conftest import Outcome
from tests.serving.conftest import KEY, Server, data_url, scene
from tests.shared import until

from vlv.errors import ConfigError
from vlv.serving.errors import ApiError
from vlv.serving.http.keys import ApiKey, Quotas, find_key, parse_keys

IMAGE = data_url(scene(3))
ROUTES = [
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("POST", "/v1/responses"),
    ("POST", "/api/chat"),
    ("POST", "/api/generate"),
    ("GET", "/api/tags"),
    ("GET", "/api/version"),
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
    """Status of a request that is sent as written; clients would normalise it."""
    port = int(server.url.rpartition(":")[2])
    lines = [f"{method} {target} HTTP/1.1", "Connection: close", "Content-Length: 0", *headers]
    if not any(line.lower().startswith("host:") for line in headers):
        lines.insert(1, f"Host: 127.0.0.1:{port}")
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
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
def test_no_spelling_of_a_path_avoids_the_key(keyed: Server, target: str) -> None:
    assert status(keyed, "GET", target) == 401


def test_names_quotas_and_hashes_of_a_file(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"secret").hexdigest()
    lines = [
        "# of the team",
        "an-old-key",
        "",
        f"ann: sha256:{digest} requests-per-minute=2 images-per-day=3",
        "bob: other-key",
        f"sha256:{hashlib.sha256(b'third').hexdigest().upper()}",
    ]
    old, ann, bob, unnamed = parse_keys(lines, tmp_path)
    assert (old.name, ann.name, bob.name, unnamed.name) == ("line-2", "ann", "bob", "line-6")
    assert (ann.requests_per_minute, ann.images_per_day) == (2, 3)
    keys = [old, ann, bob, unnamed]
    for given, expected in zip(
        (b"an-old-key", b"secret", b"other-key", b"third"), keys, strict=True
    ):
        assert find_key(keys, given) == expected
    # A file may be read by more people than may use the server.
    for line in lines[2:]:
        assert find_key(keys, line.rpartition(":")[2].encode()) in (None, bob)
        assert find_key(keys, line.encode()) is None
    for line, expected_error in (
        ("sha256:12", "must have 64 hexadecimal digits after sha256:"),
        ("ann: sha256:12", "must have 64 hexadecimal digits after sha256:"),
        ("ann: key requests-per-hour=2", "must have requests-per-minute=N or images-per-day=N"),
        ("bob: key", "has the name bob twice"),
        ("eve: other-key", "has the key of bob again as eve"),
        ("key requests-per-minute=2", "line 7, must be a key without spaces, or `NAME: KEY`"),
        ("eve key", "must be a key without spaces"),
    ):
        with pytest.raises(ConfigError, match=expected_error):
            parse_keys([*lines, line], tmp_path)


def test_quotas_refill_and_survive_a_restart(tmp_path: Path) -> None:
    now = [86400.0 * 20_000 + 3600]
    key = ApiKey("ann", b"", requests_per_minute=2, images_per_day=2)

    def quotas() -> Quotas:
        return Quotas(tmp_path / "used.json", lambda: now[0])

    first = quotas()
    for _ in range(2):
        first.take_request(key)
        first.take_images(key, 1)
    first.save()
    for take, code, seconds in (
        (first.take_request, "rate_limit_exceeded", "30"),
        (partial(first.take_images, count=1), "quota_exceeded", str(23 * 3600)),
        (partial(quotas().take_images, count=1), "quota_exceeded", str(23 * 3600)),
    ):
        with pytest.raises(ApiError) as refused:
            take(key)
        assert (refused.value.status, refused.value.code) == (429, code)
        assert refused.value.response().headers["retry-after"] == seconds
    now[0] += 30
    first.take_request(key)
    now[0] += 23 * 3600
    for later in (first, quotas()):
        with pytest.raises(ApiError, match="of which 2 are left, and this request has 3;"):
            later.take_images(key, 3)
        later.take_images(key, 2)
    (tmp_path / "used.json").unlink()
    (tmp_path / "used.json").mkdir()  # stands for a disk that refuses
    for _ in range(2):
        with pytest.raises(OSError):
            later.save()
    (tmp_path / "used.json").rmdir()
    later.save()  # although nothing has changed since the attempts
    assert (tmp_path / "used.json").exists()
    with pytest.raises(ConfigError, match="cannot be written"):
        Quotas(tmp_path / "no folder" / "used.json")
    (tmp_path / "used.json").write_text("[]")
    with pytest.raises(ConfigError, match="does not hold used quotas"):
        quotas()


def test_names_are_in_the_log_and_in_the_metrics(keyed: Server) -> None:
    headers = {"Authorization": "Bearer a-limited-key"}
    two = {"a": {"image": IMAGE}, "b": {"image": IMAGE}, "keep_a": 70, "keep_b": 7}
    one = {"image": IMAGE, "max_new_tokens": 2}
    answers = [
        httpx.post(f"{keyed.url}/v1/vlv/{path}", json=body, headers=headers, timeout=60)
        for path, body in (("compose", two), *[("caption", one)] * 3)
    ]
    codes = [answer.json().get("error", {}).get("code") for answer in answers]
    # What asks for more than is left takes nothing.
    assert codes == ["quota_exceeded", None, "quota_exceeded", "rate_limit_exceeded"]
    assert int(answers[3].headers["retry-after"]) <= 20
    until(lambda: keyed.metric("vlv_key_requests_total", key="ann", status="429") == 3)
    assert keyed.metric("vlv_key_images_total", key="ann") == 1
    assert keyed.metric("vlv_refused_total", reason="rate_limit") == 1
    assert keyed.metric("vlv_accepted_total") == keyed.metric("vlv_finished_total")
    assert '"key": "ann"' in keyed.log.read_text()
    assert "a-limited-key" not in keyed.log.read_text()
    used = keyed.log.with_name("used.json")
    # It is written every second, and may hold the images of other keys before.
    until(lambda: used.exists() and "ann" in json.loads(used.read_text())["images"])
    assert json.loads(used.read_text())["images"]["ann"] == 1


def test_open_paths(keyed: Server) -> None:
    for target in ("/health", "/ready"):
        assert status(keyed, "GET", target) == 200
    assert status(keyed, "GET", "/static/nothing.js") == 404


def test_without_a_key_only_this_machine_is_served(
    server: Server, vlv: Callable[..., Outcome], tmp_path: Path
) -> None:
    assert status(server, "GET", "/v1/models", "Host: rebound.example") == 403
    # Load balancers ask by an address.
    assert status(server, "GET", "/health", "Host: 10.0.0.7") == 200
    assert status(server, "GET", "/v1/models", "Host: localhost:1") == 200
    for options in (["--host", "0.0.0.0"], ["--host", "::"]):
        refused = vlv("serve", *options)
        assert refused.code == 2
        assert "without a key, the server may listen on this machine only" in refused.err
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "image").write_bytes(bytes(range(128, 256)))
    for name, expected in (
        ("empty", "contains no key; write one key a line"),
        ("image", "is not a text file with keys (it is not UTF-8 text)"),
        ("nowhere", "cannot be read (No such file or directory)"),
    ):
        refused = vlv("serve", "--api-key-file", tmp_path / name)
        assert refused.code == 2
        assert refused.err == f"vlv: {tmp_path / name} {expected}\n"


def test_names_are_shown_without_control_characters(keyed: Server) -> None:
    answer = keyed.client.get("/v1/models/another")
    message = "This server has only the model mini\\x1b[2J\\n."
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, message)
    answer = keyed.post("/v1/vlv/encode", **{"a\x1b[2J\n": 1, "image": IMAGE})
    message = "There is no field `a\\x1b[2J\\n` here; leave it out."
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, message)
