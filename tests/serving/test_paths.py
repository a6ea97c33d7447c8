"""Paths as clients write them, web pages of other origins, and reverse proxies."""

import re
from collections.abc import Callable, Iterator
from urllib.parse import urljoin

import httpx
import pytest
from tests.conftest import Outcome
from tests.serving.conftest import Server, data_url, scene, start, stop

KEY = "a key"
ORIGIN = "http://localhost:3000"
BODY = {
    "max_tokens": 2,
    "messages": [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": data_url(scene(3))}}],
        }
    ],
}


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server behind a prefix, with a key and another name, that other origins may use."""
    options = ["--api-key", KEY, "--root-path", "/tools/vlv/", "--served-model-name", "captioner"]
    options += ["--allow-origin", f"{ORIGIN}/", "--allow-origin", "https://APP.example:443"]
    running = start(tmp_path_factory.mktemp("proxied") / "log", *options, key=KEY)
    yield running
    stop(running)


@pytest.mark.parametrize(
    "path",
    [
        "//v1/chat/completions",
        "/v1//chat/completions",
        "///v1///chat//completions",
        "/v1/chat/completions/",
        "/v1/chat/completions//",
    ],
)
def test_extra_slashes_are_ignored(server: Server, path: str) -> None:
    answer = httpx.post(httpx.URL(server.url, raw_path=path.encode()), json=BODY, timeout=60)
    assert answer.status_code == 200
    assert httpx.get(f"{server.url}//v1//models/").json()["data"][0]["id"] == "vlv-mini"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/v1/chat/completions", "/v1/chat/completions"),
        ("/api/v1/chat/completions/", "/v1/chat/completions"),
        ("/V1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/completions", "/v1/chat/completions"),
        ("/v1/completions", "/v1/chat/completions"),
        ("/models", "/v1/models"),
        ("/v1/v1/models", "/v1/models"),
        ("/caption", "/v1/vlv/caption"),
        ("/vlv/verify", "/v1/vlv/verify"),
        ("/v1/caption", "/v1/vlv/caption"),
        ("/v1/health", "/health"),
        ("/something/else", "/openapi.json"),
    ],
)
def test_the_404_names_the_right_address(server: Server, path: str, meant: str) -> None:
    answer = server.client.post(path, json=BODY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert meant in answer.json()["error"]["message"]


def test_the_405_names_the_right_methods(server: Server) -> None:
    for method, path, allowed in (
        ("GET", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/vlv/caption", "POST"),
        ("OPTIONS", "/v1/models", "GET, HEAD"),
        ("DELETE", "/health", "GET, HEAD"),
        ("HEAD", "/v1/chat/completions", "POST"),
        ("PUT", "/static/app.js", "GET, HEAD"),
    ):
        answer = server.client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert server.client.get("/v1/chat/completions").json()["error"]["message"] == (
        "This address accepts POST, not GET."
    )


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/health", "/ready", "/metrics", "/openapi.json", "/static/style.css", "/nothing"),
        *("/v1/models", "/v1/models/vlv-mini", "/v1/vlv/info", "/v1/vlv/scene?seed=1"),
    ],
)
def test_head_is_get_without_content(server: Server, path: str) -> None:
    got, head = server.client.get(path), server.client.head(path)
    assert head.status_code == got.status_code and head.content == b""
    assert head.headers["content-type"] == got.headers["content-type"]
    if path != "/metrics":
        assert head.headers["content-length"] == got.headers["content-length"]


def preflight(url: str, origin: str) -> httpx.Response:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    headers["Access-Control-Request-Headers"] = "authorization,content-type,x-stainless-os"
    return httpx.options(f"{url}/v1/chat/completions", headers=headers)


def test_allowed_origins_may_send_requests(proxied: Server, server: Server) -> None:
    for origin in (ORIGIN, "https://app.example"):
        asked = preflight(proxied.url, origin)  # without a key, as browsers do
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == origin
        assert "authorization" in asked.headers["access-control-allow-headers"]
        with_origin = {"Origin": origin}
        answer = proxied.client.post(
            "/v1/chat/completions", json={**BODY, "top_k": 5}, headers=with_origin
        )
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == origin
        exposed = answer.headers["access-control-expose-headers"].lower()
        assert {"x-vlv-ignored", "x-vlv-out-of-distribution", "retry-after"} <= set(
            exposed.split(", ")
        )
        refused = httpx.get(f"{proxied.url}/v1/models", headers=with_origin)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == origin
    for url, origin in (
        (proxied.url, "http://localhost:3001"),
        (proxied.url, "null"),
        (proxied.url, "https://app.example.evil.example"),
        (server.url, ORIGIN),
    ):
        assert "access-control-allow-origin" not in preflight(url, origin).headers
        got = httpx.get(f"{url}/health", headers={"Origin": origin})
        assert "access-control-allow-origin" not in got.headers
    assert preflight(server.url, ORIGIN).status_code == 405


def test_a_proxy_may_remove_its_prefix_or_not(proxied: Server) -> None:
    for prefix in ("", "/tools/vlv"):
        assert proxied.client.get(f"{prefix}/health").status_code == 200
        answer = proxied.client.post(f"{prefix}/v1/chat/completions", json=BODY)
        assert answer.status_code == 200
        assert httpx.get(f"{proxied.url}{prefix}/v1/models").status_code == 401
        assert httpx.get(f"{proxied.url}{prefix}/health").status_code == 200
    for path in ("/tools/vlvx/health", "/tools/health", "/tools/vlv/tools/vlv/health"):
        assert proxied.client.get(path).status_code == 404
        assert httpx.get(f"{proxied.url}{path}").status_code == 401
    moved = httpx.get(f"{proxied.url}/tools/vlv")
    assert (moved.status_code, moved.headers["location"]) == (308, "/tools/vlv/")
    described = proxied.client.get("/openapi.json").json()
    assert described["servers"] == [{"url": "/tools/vlv"}]


def test_the_page_works_below_a_prefix(proxied: Server) -> None:
    """It uses no address that starts at the root."""
    page = f"{proxied.url}/tools/vlv/"
    html = httpx.get(page).text
    found = re.findall(r'(?:src|href)="([^"#]+)"', html)
    assert len(found) > 2
    for address in found:
        part = httpx.get(urljoin(page, address))
        assert part.status_code == 200 and urljoin(page, address).startswith(page)
        assert not re.search(r'(?:fetch|call|events|import|from)\(?\s*["`]/', part.text)


def test_the_models_name_in_the_api(proxied: Server) -> None:
    assert [one["id"] for one in proxied.client.get("/v1/models").json()["data"]] == ["captioner"]
    assert proxied.client.get("/v1/models/captioner").status_code == 200
    assert proxied.client.get("/v1/vlv/info").json()["model"] == "captioner"
    answer = proxied.client.post("/v1/chat/completions", json={**BODY, "model": "vlv-mini"})
    assert answer.json()["model"] == "captioner"


def test_streams_are_not_buffered_by_proxies(server: Server) -> None:
    answer = server.client.post("/v1/chat/completions", json={**BODY, "stream": True})
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--allow-origin", "localhost:3000"),
        ("--allow-origin", "http://localhost:3000/page"),
        ("--allow-origin", "*"),
        ("--allow-origin", "null"),
        ("--root-path", "vlv"),
        ("--root-path", "/a/../b"),
        ("--root-path", "http://a/b"),
    ],
)
def test_invalid_options_are_refused(option: str, value: str, vlv: Callable[..., Outcome]) -> None:
    refused = vlv("serve", option, value)
    assert refused.code == 2
    assert option in refused.err and value in refused.err
