"""A real nginx in front of a real server, with the settings that docs/service.md gives for it."""

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
from tests.serving.conftest import Server, data_url, free_port, scene, until

pytestmark = pytest.mark.slow

SERVICE = Path(__file__).resolve().parents[2] / "docs/service.md"
STEPS = 40


@pytest.fixture
def nginx(serve: Callable[..., Server], tmp_path: Path) -> Iterator[str]:
    """The address of the page behind nginx."""
    server = serve("--root-path", "/vlv")
    port = free_port()
    config = tmp_path / "nginx.conf"
    config.write_text(configuration(tmp_path, port, server.url), encoding="utf-8")
    log = tmp_path / "nginx.log"
    command = ["nginx", "-p", str(tmp_path), "-c", str(config), "-g", "daemon off;"]
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stderr=errors)
    url = f"http://127.0.0.1:{port}/vlv"

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"{url}/health").status_code == 200
        except httpx.ConnectError:
            return False

    until(answers)
    yield url
    process.terminate()
    process.wait(30)


def configuration(folder: Path, port: int, upstream: str) -> str:
    """The block of the documentation, with this server's port, in the least that nginx needs."""
    block = re.search(r"```nginx\n(location /vlv/ .+?)```", SERVICE.read_text("utf-8"), re.DOTALL)
    assert block is not None
    location = block[1].replace("http://127.0.0.1:8000", upstream)
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


def test_the_service_behind_nginx_below_a_path(nginx: str) -> None:
    page = httpx.get(f"{nginx}/")
    assert page.status_code == 200 and "static/app.js" in page.text
    assert httpx.get(f"{nginx}/static/app.js").status_code == 200
    # A body above nginx's own limit of 1 MB reaches the server, one above the server's does not.
    large = {"image": data_url(scene(1)), "unknown": "x" * 3_000_000}
    refused = httpx.post(f"{nginx}/v1/vlv/caption", json=large, timeout=60)
    assert refused.status_code == 400 and "unknown" in refused.json()["error"]["message"]
    larger = {**large, "unknown": "x" * 22_000_000}
    assert httpx.post(f"{nginx}/v1/vlv/caption", json=larger, timeout=60).status_code == 413

    body = {"text": "a red cube", "num_inference_steps": STEPS, "stream": True}
    arrived = []
    with httpx.stream("POST", f"{nginx}/v1/vlv/reconstruct", json=body, timeout=120) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data:"):
                arrived.append((time.monotonic(), line))
    steps = [at for at, line in arrived if '"steps"' in line]
    assert len(steps) == STEPS
    assert arrived[-1][1] == "data: [DONE]"
    # With a buffer in between, all steps come at once, at the end.
    assert steps[STEPS // 2] - steps[0] > 0.2 * (arrived[-1][0] - steps[0])
