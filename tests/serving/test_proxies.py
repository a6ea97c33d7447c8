"""A real nginx and a real Caddy in front of a real server, with the settings of docs/service.md."""

import grp
import os
import pwd
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests.serving.conftest import Server, data_url, scene
from tests.shared import free_port, until

pytestmark = pytest.mark.slow

SERVICE = Path(__file__).resolve().parents[2] / "docs/service.md"
STEPS = 40


@pytest.fixture(params=["nginx", "caddy"])
def proxy(
    request: pytest.FixtureRequest, serve: Callable[..., Server], tmp_path: Path
) -> Iterator[str]:
    """The address of the page behind a proxy."""
    server = serve("--root-path", "/vlv")
    port = free_port()
    config = tmp_path / "proxy.conf"
    write, command = {
        "nginx": (nginx, ["nginx", "-p", str(tmp_path), "-c", str(config), "-g", "daemon off;"]),
        "caddy": (caddy, ["caddy", "run", "--adapter", "caddyfile", "--config", str(config)]),
    }[request.param]
    config.write_text(write(tmp_path, port, server.url), encoding="utf-8")
    log = tmp_path / "proxy.log"
    # Caddy keeps its state below these.
    places = {name: str(tmp_path) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stderr=errors, env={**os.environ, **places})
    url = f"http://127.0.0.1:{port}/vlv"

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"{url}/health").status_code == 200
        except httpx.TransportError:  # it may end after it has taken the connection
            return False

    until(answers)
    yield url
    process.terminate()
    process.wait(30)


def documented(pattern: str, upstream: str) -> str:
    """A block of the documentation, with this server's address."""
    block = re.search(rf"```\w*\n({pattern}.+?)```", SERVICE.read_text("utf-8"), re.DOTALL)
    assert block is not None
    address = upstream.removeprefix("http://")
    assert "127.0.0.1:8000" in block[1]
    return block[1].replace("127.0.0.1:8000", address)


def caddy(folder: Path, port: int, upstream: str) -> str:
    """The documented block, for one address without TLS."""
    site = documented("site.example {", upstream).replace(
        "site.example", f"http://127.0.0.1:{port}"
    )
    return f"{{\nadmin off\nauto_https off\n}}\n{site}"


def nginx(folder: Path, port: int, upstream: str) -> str:
    """The documented block, in the least that nginx needs."""
    location = documented("location /vlv/", upstream)
    paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"{name}_temp_path {folder}/{name};" for name in paths)
    # The workers of a root's nginx would else be another user's, who may not write here.
    user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    return f"""
user {user} {group};
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
access_log off;
{temporary}
server {{
listen 127.0.0.1:{port};
{location}
}}
}}
"""


def test_the_service_behind_a_proxy_below_a_path(proxy: str) -> None:
    page = httpx.get(f"{proxy}/", timeout=60)
    assert page.status_code == 200 and "static/app.js" in page.text
    assert httpx.get(f"{proxy}/static/app.js").status_code == 200
    bare = httpx.get(proxy)
    assert bare.status_code in (301, 302)
    assert httpx.URL(bare.headers["Location"]).path == "/vlv/"
    # A body above nginx's default of 1 MB reaches the server, one above the server's does not.
    large = {"image": data_url(scene(1)), "unknown": "x" * 3_000_000}
    refused = httpx.post(f"{proxy}/v1/vlv/caption", json=large, timeout=60)
    assert refused.status_code == 400 and "unknown" in refused.json()["error"]["message"]
    larger = {**large, "unknown": "x" * 22_000_000}
    assert httpx.post(f"{proxy}/v1/vlv/caption", json=larger, timeout=60).status_code == 413

    body = {"text": "a red cube", "num_inference_steps": STEPS, "stream": True}
    arrived = []
    with httpx.stream("POST", f"{proxy}/v1/vlv/reconstruct", json=body, timeout=120) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data:"):
                arrived.append((time.monotonic(), line))
    steps = [at for at, line in arrived if '"steps"' in line]
    assert len(steps) == STEPS
    assert arrived[-1][1] == "data: [DONE]"
    # With a buffer in between, all steps come at once, at the end.
    assert steps[STEPS // 2] - steps[0] > 0.2 * (arrived[-1][0] - steps[0])
