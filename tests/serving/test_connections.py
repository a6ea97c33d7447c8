"""Abusive connections: very many, slow, incomplete, or ambiguous."""

import json
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest
from tests.serving.conftest import Server, start, stop
from tests.shared import until

from vlv.serving.http.connections import connection_limit

FILES = 256
QUEUE = 18
BODY_MB = 1.0
HEAD = "POST /v1/vlv/caption HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server that may open few files, and its log."""
    log = tmp_path_factory.mktemp("limited") / "log"
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, limits[1]))
    try:
        options = ("--queue-size", str(QUEUE), "--max-body-mb", str(BODY_MB))
        running = start(log, *options, "--max-connections", "1000")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    yield running, log
    stop(running)


@pytest.fixture
def connect() -> Iterator[Callable[..., socket.socket]]:
    """Connections to a server that end with the test."""
    with ExitStack() as connections:

        def run(server: Server, sent: str | bytes = b"") -> socket.socket:
            port = int(server.url.rpartition(":")[2])
            connection = socket.create_connection(("127.0.0.1", port), timeout=60)
            connections.enter_context(connection)
            connection.sendall(sent.encode() if isinstance(sent, str) else sent)
            return connection

        yield run


def has_come(connection: socket.socket) -> bool:
    """Whether there is an answer, or an end, that was not read."""
    return bool(select.select([connection], [], [], 0)[0])


def answered(connection: socket.socket) -> tuple[int, str, bytes]:
    """Status and code of an error, and all data until the server closed; 0 if there were none."""
    received = b""
    while piece := connection.recv(65536):
        received += piece
    if not received:
        return 0, "", b""
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"], received


def test_heads_and_bodies_have_their_time(limited: tuple[Server, Path], connect: Callable) -> None:
    server, _ = limited
    silent = connect(server)
    half_head = connect(server, "GET /health HTTP/1.1\r\nHost: loc")
    half_body = connect(server, f"{HEAD}Content-Length: 1000\r\n\r\n{{")
    refused = connect(server, f"{HEAD}Content-Length: 9000000\r\n\r\n")
    for _ in range(5):
        time.sleep(1)
        for connection in (half_head, half_body, refused):
            connection.sendall(b"x")
    # A byte now and then does not stretch it: what begins before the last one has its time later.
    later = connect(server, "GET /health HTTP/1.1\r\nHost: loc")
    for connection in (half_head, half_body, refused):
        connection.sendall(b"x")
    assert answered(half_head)[:2] == (408, "slow_request")
    assert answered(half_body)[:2] == (408, "slow_request")
    assert answered(refused)[:2] == (413, "body_too_large")
    assert answered(silent)[0] == 0
    assert not has_come(later)
    until(lambda: server.metric("vlv_slots_used") == 0)


def test_connections_have_a_number(limited: tuple[Server, Path], connect: Callable) -> None:
    """Idle ones are closed, so that they block nobody, and fill neither the log nor the processor.

    More are opened than the server may have files.
    """
    server, log = limited
    process = psutil.Process(server.process.pid)
    before, size = sum(process.cpu_times()[:2]), log.stat().st_size
    for count in range(300):
        last = connect(server, "GET /health HTTP/1.1\r\nHost: lo" if count % 2 else "")
    # On a new connection: that of the client is idle, and may be closed while it is asked.
    assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200
    assert not has_come(last)  # it was answered before the time of the others was over
    assert process.num_fds() < FILES - 64
    time.sleep(2)
    assert sum(process.cpu_times()[:2]) - before < 2
    assert log.stat().st_size - size < 10_000
    assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200


def test_bodies_have_room_as_they_come_and_requests_have_slots_before(
    limited: tuple[Server, Path], connect: Callable
) -> None:
    """Room for sixteen bodies of the largest size, and no more requests than slots."""
    server, _ = limited

    def begin(count: int, size: int, sent: int = 0) -> list[socket.socket]:
        head = f"{HEAD}Connection: close\r\nContent-Length: {size}\r\n\r\n"
        return [connect(server, head + " " * sent) for _ in range(count)]

    def refused(size: int) -> bool:
        """Whether there is no room; an admitted request sends nothing and disconnects."""
        (one,) = begin(1, size)
        one.settimeout(0.5)
        try:
            return answered(one)[:2] == (429, "queue_full")
        except TimeoutError:
            one.close()
            return False

    def close(connections: list[socket.socket]) -> None:
        for one in connections:
            one.close()
        until(lambda: server.metric("vlv_slots_used") == 0)

    slow = begin(16, 1_000_000)
    until(lambda: server.metric("vlv_slots_used") == 16)
    keeps_out_nobody = server.post("/v1/vlv/caption", image="x" * 900_000)
    assert (keeps_out_nobody.status_code, keeps_out_nobody.json()["error"]["param"]) == (
        400,
        "image",
    )
    close(slow)
    large = begin(16, 1_000_000, sent=999_990)
    until(lambda: refused(200))
    assert answered(*begin(1, 1_000_000))[:2] == (429, "queue_full")
    chunked = connect(server, f"{HEAD}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunked.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
    assert answered(chunked)[:2] == (429, "queue_full")
    close(large)
    assert server.post("/v1/vlv/caption", image="x" * 900_000).status_code == 400
    small = begin(QUEUE, 1000)
    until(lambda: server.metric("vlv_slots_used") == QUEUE)
    assert answered(*begin(1, 1000))[:2] == (429, "queue_full")
    close(small)
    assert server.metric("vlv_accepted_total") == server.metric("vlv_finished_total")


def test_a_slow_reader_has_its_answers_though_all_connections_are_used(
    limited: tuple[Server, Path],
) -> None:
    """More connections than allowed are opened while the last answer waits in the server."""
    server, _ = limited
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    described = len(server.client.get("/openapi.json").content)
    with socket.socket() as reader, ExitStack() as others:
        # The system keeps little on the way.
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        reader.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        reader.settimeout(60)
        reader.connect(address)
        reader.sendall(3 * b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert select.select([reader], [], [], 60)[0]  # and the rest of its answers waits
        for _ in range(FILES):
            others.enter_context(socket.create_connection(address, timeout=60))
        assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200
        received = b""
        while len(received) <= 3 * described and (piece := reader.recv(65536)):
            received += piece
    assert received.count(b"HTTP/1.1 200") == 3
    assert len(received) > 3 * described


def test_a_refused_client_sees_the_answer_while_it_sends(server: Server, connect: Callable) -> None:
    """Although the answer comes long before the whole body is sent."""
    for head, status in (
        (f"{HEAD}Content-Length: 30000000\r\n", 413),
        (f"{HEAD}Content-Length: 9000000\r\nHost: elsewhere\r\n", 400),
        (HEAD.replace("localhost", "elsewhere") + "Content-Length: 9000000\r\n", 403),
        (HEAD.replace("caption", "nothing") + "Content-Length: 9000000\r\n", 404),
        (f"{HEAD}Content-Length: 9000000\r\nTransfer-Encoding: chunked\r\n", 400),
    ):
        connection = connect(server, f"{head}Connection: close\r\n\r\n")
        for _ in range(80):
            connection.sendall(b" " * 100_000)
            time.sleep(0.002)
        assert answered(connection)[0] == status


@pytest.mark.parametrize(
    "request_",
    [
        f"{HEAD}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n",
        f"{HEAD}Transfer-Encoding: chunked\r\nContent-length : 2\r\n\r\n{{}}",
        f"{HEAD}transfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n0\r\n\r\n",
        f"{HEAD}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}",
        f"{HEAD}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        HEAD.replace("1.1", "1.0") + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /health HTTP/1.1\nHost: localhost\n\n",
        "GET /health HTTP/1.1\r\nHost: localhost\n\r\n",
        "GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\nContent-Length: 5\r\n\r\n",
        "\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        f"{HEAD}Transfer-Encoding: chunked\r\n\r\n2;a\n{{}}\r\n0\r\n\r\n",
        "GET /health HTTP/1.1\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
        "\x16\x03\x01 no TLS here",
        "GET /health\r\n\r\n",
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(
    server: Server, connect: Callable, request_: str
) -> None:
    status, code, received = answered(connect(server, request_.encode("latin-1")))
    assert (status, code) in ((400, "malformed_request"), (400, "invalid_request"))
    assert received.count(b"HTTP/1.1 4") == 1


def test_the_length_of_a_head_is_limited(server: Server, connect: Callable) -> None:
    head = "GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + "a" * 70_000
    assert answered(connect(server, head))[:2] == (431, "head_too_large")


def test_requests_one_after_another_on_a_connection(server: Server, connect: Callable) -> None:
    """Sent together, and with an empty trailer between them."""
    body = b'{"image": "x"}'
    chunked = f"{HEAD}Transfer-Encoding: chunked\r\n\r\ne\r\n".encode() + body + b"\r\n0\r\n\r\n"
    health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    last = health + b"Connection: close\r\n\r\n"
    connection = connect(server, chunked + health + b"\r\n" + last)
    received = b""
    while piece := connection.recv(65536):
        received += piece
    assert [int(one.split()[0]) for one in received.split(b"HTTP/1.1 ")[1:]] == [400, 200, 200]


def test_as_many_connections_as_there_are_files_for() -> None:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert connection_limit(10) == 10
    assert connection_limit(10**9) < files
