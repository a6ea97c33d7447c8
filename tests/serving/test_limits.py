"""Overload, deadlines, clients that disconnect, workers that die, and shutdown."""

import json
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests import launcher
from tests.serving.conftest import Server, data_url, pixels, scene, start, stop
from tests.shared import free_port, until

from vlv.serving.settings import ServeSettings

IMAGE = data_url(scene(3))
# A second of work and more.
LONG = {"image": IMAGE, "num_inference_steps": 60, "guidance_scale": 2.0}
SHORT = {**LONG, "num_inference_steps": 40}
ENDLESS = {**LONG, "num_inference_steps": 1000}
# Half a minute of verification.
CHECKED = {"image": IMAGE, "caption": "A small matte blue sphere is at the back left. " * 20}


def begun(
    server: Server, body: dict[str, object], path: str = "/v1/vlv/reconstruct"
) -> socket.socket:
    """The connection of a request that the server has admitted."""
    before = server.metric("vlv_accepted_total")
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(data)}"
    lines = f"{head}\r\nContent-Type: application/json\r\n\r\n"
    connection.sendall(lines.encode() + data)
    until(lambda: server.metric("vlv_accepted_total") > before)
    return connection


@pytest.fixture
def begin_request(server: Server) -> Iterator[Callable[..., socket.socket]]:
    """Begin a request; returns its connection once the server has admitted it."""
    with ExitStack() as connections:

        def begin(path: str, **body: object) -> socket.socket:
            return connections.enter_context(begun(server, body, path))

        yield begin


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Server]]:
    """A server whose worker may be killed, and that may be stopped; another one starts then."""
    servers: list[Server] = []

    def running() -> Server:
        if not servers or servers[-1].process.poll() is not None:
            servers.append(start(tmp_path_factory.mktemp("mortal") / "log"))
        return servers[-1]

    yield running
    for server in servers:
        stop(server)


def data_of(lines: Iterable[str]) -> list[str]:
    """The data of server-sent events; comments keep the connection alive and are no events."""
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def status_before_the_body(server: Server, path: str, header: str) -> int:
    """The status of a request whose body never comes."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 1000000"
        head += f"\r\n{header}\r\n\r\n"
        connection.sendall(head.encode())
        return int(connection.recv(4096).split(b" ")[1])


def test_a_full_house_refuses_at_once_and_loses_nobody(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    # What is refused does not count for the key.
    (tmp_path / "keys").write_text("ann: a-key requests-per-minute=3")
    keys = ("--api-key-file", str(tmp_path / "keys"))
    server = serve("--queue-size", "2", *keys, key="a-key")
    with ThreadPoolExecutor(2) as threads:
        inside = [threads.submit(server.post, "/v1/vlv/reconstruct", **LONG) for _ in range(2)]
        until(lambda: server.metric("vlv_slots_used") == 2)
        refused = [server.post("/v1/vlv/caption", image=IMAGE) for _ in range(5)]
        assert {answer.status_code for answer in refused} == {429}
        assert int(refused[0].headers["retry-after"]) >= 1
        assert refused[0].json()["error"]["code"] == "queue_full"
        assert server.post("/v1/vlv/nothing").status_code == 404
        header = "Authorization: Bearer a-key"
        assert status_before_the_body(server, "/v1/vlv/caption", header) == 429
        assert [one.result().status_code for one in inside] == [200, 200]
    assert server.post("/v1/vlv/caption", image=IMAGE).status_code == 200
    assert server.metric("vlv_refused_total", reason="queue_full") == 6
    assert server.metric("vlv_accepted_total") == server.metric("vlv_finished_total") == 3
    assert server.metric("vlv_requests_total", status="429", route="/v1/vlv/caption") == 6


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/vlv/reconstruct", ENDLESS), ("/v1/vlv/verify", CHECKED)]
)
def test_a_caption_does_not_wait_for_long_work_which_ends_with_its_client(
    server: Server, begin_request: Callable, path: str, body: dict[str, object]
) -> None:
    connection = begin_request(path, **body)
    until(lambda: server.metric("vlv_running") == 1)
    for _ in range(2):
        assert server.post("/v1/vlv/caption", image=IMAGE).status_code == 200
        assert server.metric("vlv_running") == 1
    connection.close()
    until(lambda: server.metric("vlv_slots_used") == 0)
    until(lambda: server.metric("vlv_running") == 0)
    assert server.post("/v1/vlv/caption", image=IMAGE).status_code == 200


def test_clients_that_leave_free_their_slots(server: Server, begin_request: Callable) -> None:
    before = server.metric("vlv_finished_total", outcome="client_gone")
    connections = [begin_request("/v1/vlv/reconstruct", **ENDLESS) for _ in range(6)]
    assert server.metric("vlv_slots_used") == 6
    for connection in connections:
        connection.close()
    until(lambda: server.metric("vlv_slots_used") == 0)
    until(lambda: server.metric("vlv_running") + server.metric("vlv_queue_depth") == 0)
    assert server.metric("vlv_finished_total", outcome="client_gone") == before + 6


def test_deadlines_and_bodies(serve: Callable[..., Server]) -> None:
    server = serve("--timeout", "2", "--max-body-mb", "0.1")
    late = server.post("/v1/vlv/reconstruct", **ENDLESS)
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    until(lambda: server.metric("vlv_running") == 0)
    large = server.post("/v1/vlv/caption", image=IMAGE + "A" * 200_000)
    assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
    chunks = (b"x" * 10_000 for _ in range(20))
    json_type = {"Content-Type": "application/json"}
    streamed = server.client.post("/v1/vlv/caption", content=chunks, headers=json_type)
    assert streamed.status_code == 413
    assert server.metric("vlv_finished_total", outcome="deadline") == 1
    # The large body was refused by its Content-Length, the other one after it had a slot.
    assert server.metric("vlv_finished_total", outcome="client_error") == 1
    assert server.metric("vlv_finished_total", outcome="server_error") == 0
    # A short one: this server gives no request more than two seconds, however busy the machine is.
    short = server.post("/v1/vlv/caption", image=IMAGE, max_new_tokens=2)
    assert short.status_code == 200


def test_a_worker_that_is_killed_loses_no_request(mortal: Callable[[], Server]) -> None:
    server = mortal()
    expected = server.post("/v1/vlv/reconstruct", **SHORT).json()
    caption = server.post("/v1/vlv/caption", image=IMAGE).json()
    with ThreadPoolExecutor(4) as threads:
        drawn = threads.submit(server.post, "/v1/vlv/reconstruct", **SHORT)
        until(lambda: server.metric("vlv_running") == 1)
        server.end_worker()
        until(lambda: server.client.get("/ready").status_code == 503)
        written = threads.submit(server.post, "/v1/vlv/caption", image=IMAGE, stream=True)
        assert abs(pixels(drawn.result().json()["image"]) - pixels(expected["image"])).max() <= 2
        assert json.loads(data_of(written.result().iter_lines())[-2]) == caption
    assert server.client.get("/ready").status_code == 200


def test_a_stream_goes_on_after_its_worker_was_killed(mortal: Callable[[], Server]) -> None:
    server = mortal()
    body = {"image": IMAGE, "temperature": 1.0, "seed": 4, "min_new_tokens": 250, "stream": True}
    whole = server.post("/v1/vlv/caption", **body).text
    with server.client.stream("POST", "/v1/vlv/caption", json=body) as answer:
        lines = answer.iter_lines()
        received = [next(lines) for _ in range(20)]
        server.end_worker()
        received += lines
    events = data_of(received)
    texts = [json.loads(event) for event in events[:-1]]
    assert events[-1] == "[DONE]"
    assert texts[-1] == json.loads(data_of(whole.splitlines())[-2])
    assert "".join(one["text"] for one in texts[:-1]) == texts[-1]["caption"]


@pytest.mark.slow
def test_a_worker_that_is_stopped_is_replaced(mortal: Callable[[], Server]) -> None:
    server = mortal()
    caption = server.post("/v1/vlv/caption", image=IMAGE).json()
    with ThreadPoolExecutor(2) as threads:
        drawn = threads.submit(server.post, "/v1/vlv/reconstruct", **SHORT)
        until(lambda: server.metric("vlv_running") == 1)
        server.end_worker(signal.SIGSTOP)
        until(lambda: server.client.get("/ready").status_code == 503)
        assert server.metric("vlv_ready") == 0
        written = threads.submit(server.post, "/v1/vlv/caption", image=IMAGE)
        until(lambda: server.client.get("/ready").status_code == 200)
        assert written.result().json() == caption
        assert drawn.result().status_code == 200


def test_a_request_that_kills_workers_takes_no_other_with_it(
    mortal: Callable[[], Server],
) -> None:
    server = mortal()
    caption = {"image": IMAGE, "temperature": 1.0, "seed": 4, "min_new_tokens": 250}
    with ThreadPoolExecutor(2) as threads:
        deadly = threads.submit(server.post, "/v1/vlv/reconstruct", **ENDLESS)
        until(lambda: server.metric("vlv_running") == 1)
        beside = threads.submit(server.post, "/v1/vlv/caption", **caption)
        for others in (1, 1, 0, 0):  # after two deaths beside others, it runs by itself
            until(lambda: server.client.get("/ready").status_code == 200)
            until(lambda: server.metric("vlv_running") == 1 + others)  # noqa: B023
            server.end_worker()
            until(lambda: server.client.get("/ready").status_code == 503)
        answer = deadly.result()
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "worker_died")
        assert beside.result().status_code == 200
    assert server.metric("vlv_finished_total", outcome="server_error") == 1


def test_sigterm_lets_requests_finish(mortal: Callable[[], Server]) -> None:
    server = mortal()
    with ThreadPoolExecutor(1) as threads, begun(server, ENDLESS) as endless:
        accepted = threads.submit(server.post, "/v1/vlv/reconstruct", **SHORT)
        until(lambda: server.metric("vlv_slots_used") == 2)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.client.get("/ready").status_code == 503)
        refused = server.post("/v1/vlv/caption", image=IMAGE)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        endless.close()  # until here, the server does not end, however soon the other one is done
        assert accepted.result().status_code == 200
    assert server.process.wait(timeout=60) == 0


def test_requests_that_are_cut_off_at_shutdown_get_an_error(serve: Callable[..., Server]) -> None:
    server = serve("--drain-seconds", "0.2")
    body = {"image": IMAGE, "min_new_tokens": 1024, "max_new_tokens": 1024, "stream": True}
    with ThreadPoolExecutor(2) as threads:
        drawn = threads.submit(server.post, "/v1/vlv/reconstruct", **ENDLESS)
        until(lambda: server.metric("vlv_running") == 1)
        with server.client.stream("POST", "/v1/vlv/caption", json=body) as stream:
            server.process.send_signal(signal.SIGTERM)
            *_, last, end = data_of(stream.iter_lines())
        assert (drawn.result().status_code, drawn.result().json()["error"]["code"]) == (
            503,
            "draining",
        )
    assert json.loads(last)["error"]["code"] == "draining"
    assert end == "[DONE]"
    assert server.process.wait(timeout=60) == 0


def test_options_reach_the_server_as_they_are_meant(
    vlv: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlv.serving import server

    seen: list[ServeSettings] = []
    monkeypatch.setattr(server, "serve", seen.append)
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path / "my-model")
    for model, name in ((".", "my-model"), ("vlv-mini", "vlv-mini"), ("owner/name", "name")):
        ran = vlv("serve", "--model", model, "--allow-image-hosts", "a.test, *.b.test,")
        assert ran.code == 0, ran.err
        assert seen[-1].worker.name == name
        assert seen[-1].image_hosts.names == ("a.test", "*.b.test")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--api-key="], "the key of --api-key or VLV_API_KEY is empty"),
        (["--api-key", " "], "the key of --api-key or VLV_API_KEY is empty"),
        (["--quota-file", "used.json"], "--quota-file keeps what keys have used"),
        (["--allow-image-networks", "10.0.0.0/8"], "name those too"),
        (["--host", "192.0.2.1", "--api-key", "k"], "192.0.2.1:8000 (Cannot assign requested"),
        (["--host", "no-such-host.invalid", "--api-key", "k"], "check --host and --port"),
    ],
    ids=str,
)
def test_options_that_would_have_no_effect_or_cannot_work_are_refused(
    vlv: Callable, options: list[str], said: str
) -> None:
    refused = vlv("serve", *options)
    assert refused.code == 2 and said in refused.err


def test_settings_that_do_not_fit_are_errors_of_the_command(vlv: Callable) -> None:
    """The model's process finds them; a model that cannot be opened ends with 3."""
    refused = vlv("serve", "--port", str(free_port()), "--device", "cuda:9")
    assert refused.code == 2 and "cuda:9" in refused.err
    missing = vlv("serve", "--port", str(free_port()), "--model", "./no-such-model")
    assert missing.code == 3


def test_an_empty_variable_is_no_key(vlv: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that was not filled in would open the server."""
    monkeypatch.setenv("VLV_API_KEY", "")
    refused = vlv("serve")
    assert refused.code == 2 and "VLV_API_KEY is empty" in refused.err


def test_no_body_may_hold_more_json_than_is_parsed(vlv: Callable) -> None:
    refused = vlv("serve", "--max-body-mb", 65)
    assert refused.code == 2 and "--max-body-mb" in refused.err


def test_a_missing_model_is_reported(serve: Callable[..., Server], tmp_path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(AssertionError, match="vlv: "):
        serve("--model", str(tmp_path / "model"))


def test_it_says_where_it_listens_that_a_port_is_taken_and_ends_without_complaints(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    server = start(log)
    try:
        assert f'"event": "listening", "url": "{server.url}"' in log.read_text()
        port = server.url.rpartition(":")[2]
        again = launcher.run(
            [sys.executable, "-m", "vlv.cli", "serve", "--port", port],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert again.returncode == 2
        assert f"cannot listen at 127.0.0.1:{port} (Address already in use)" in again.stderr
        # Libraries register what they share with other processes when they work.
        drawn = server.post("/v1/vlv/reconstruct", text="a cube", num_inference_steps=1)
        assert drawn.status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0
        other = [one for one in log.read_text().splitlines() if not one.startswith("{")]
        assert other == []  # such as those of Python's resource_tracker
    finally:
        stop(server)
