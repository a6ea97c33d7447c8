"""Fetching images from URLs of strangers: what is fetched, and what never reaches this network.

A server on the loopback stands for everything that a URL must not reach: it counts who comes.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vlv.data.fetching import Fetcher
from vlv.errors import ConfigError, ImageError

FILE = b"the bytes of an image" * 10
PUBLIC = "93.184.216.34"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Sentinel)
        server.seen.append((self.path, dict(self.headers)))
        kind, _, rest = self.path.lstrip("/").partition("/")
        if kind == "to":
            self.send_response(302)
            self.send_header("Location", rest)
            self.end_headers()
            return
        if kind == "missing":
            self.send_error(404)
            return
        body = FILE
        if kind == "large":
            body = b"x" * 2000
        self.send_response(200)
        if kind == "packed":
            self.send_header("Content-Encoding", "gzip")
        length = len(body) + (100 if kind == "short" else 0)
        if kind != "unannounced":
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if kind == "slow":
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.05)
            return
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on standard error."""


class Sentinel(ThreadingHTTPServer):
    """Counts requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[tuple[str, dict[str, str]]] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves early is what some tests are about."""


@pytest.fixture
def sentinel() -> Iterator[Sentinel]:
    with Sentinel() as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server
        server.shutdown()


def resolver(table: dict[str, Sequence[str]]) -> Callable[[str, int], Sequence[str]]:
    def resolve(host: str, port: int) -> Sequence[str]:
        if host not in table:
            raise OSError("unknown host")
        return table[host]

    return resolve


def inside(sentinel: Sentinel, **settings: object) -> Fetcher:
    """A fetcher that may reach the sentinel by the name `images.test`."""
    values = {
        "hosts": ["images.test"],
        "ports": [sentinel.server_port],
        "allowed_addresses": ["127.0.0.1"],
        "resolve": resolver({"images.test": ["127.0.0.1"]}),
        **settings,
    }
    return Fetcher(**values)  # type: ignore[arg-type]


def url(sentinel: Sentinel, path: str, host: str = "images.test") -> str:
    return f"http://{host}:{sentinel.server_port}/{path}"


def refusal(fetcher: Fetcher, address: str) -> ImageError:
    with pytest.raises(ImageError) as caught:
        fetcher.fetch(address)
    return caught.value


def test_an_allowed_host_is_asked_by_its_name_and_without_credentials(sentinel: Sentinel) -> None:
    assert inside(sentinel).fetch(url(sentinel, "a.png?size=1#part")) == FILE
    ((path, headers),) = sentinel.seen
    assert path == "/a.png?size=1"
    assert headers["Host"] == f"images.test:{sentinel.server_port}"
    assert headers["Accept-Encoding"] == "identity"
    assert not {"Cookie", "Authorization"} & set(headers)


def test_a_length_that_is_not_announced(sentinel: Sentinel) -> None:
    assert inside(sentinel).fetch(url(sentinel, "unannounced")) == FILE


def test_redirects_are_followed_three_times(sentinel: Sentinel) -> None:
    assert inside(sentinel).fetch(url(sentinel, "to//to//to//a.png")) == FILE
    error = refusal(inside(sentinel), url(sentinel, "to//to//to//to//a.png"))
    assert error.reason == "not-fetched"
    assert "more than 3 times" in str(error)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing", "not-fetched"),
        ("packed", "not-fetched"),
        ("short", "not-fetched"),
        ("large", "too-large-file"),
        ("slow", "not-fetched"),
    ],
)
def test_answers_that_are_not_taken(sentinel: Sentinel, path: str, reason: str) -> None:
    seconds = 1.0 if path == "slow" else 60.0
    error = refusal(inside(sentinel, max_bytes=1000, timeout=seconds), url(sentinel, path))
    assert error.reason == reason
    assert "127.0.0.1" not in str(error)


def test_a_name_that_does_not_resolve_in_time(sentinel: Sentinel) -> None:
    waited = threading.Event()

    def resolve(host: str, port: int) -> Sequence[str]:
        waited.wait(30)
        return []

    error = refusal(inside(sentinel, resolve=resolve, timeout=0.3), url(sentinel, "a.png"))
    waited.set()
    assert error.reason == "not-fetched"
    assert "within 0.3 seconds" in str(error)


# Every form is asked with all hosts allowed and the sentinel's port open, so that nothing but the
# check of the address stands between it and the loopback. {port} is the sentinel's.
FORMS = [
    "http://127.0.0.1:{port}/",
    "http://127.1:{port}/",
    "http://127.0.1:{port}/",
    "http://0:{port}/",
    "http://0.0.0.0:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7f.1:{port}/",
    "http://017700000001:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://0177.0.0.0x1:{port}/",
    "http://127.000.000.001:{port}/",
    "http://00127.0.0.1:{port}/",
    "http://127.0.0.1.:{port}/",
    "http://127.0.0.1%00.images.test:{port}/",
    "http://127.0.0.1%2eimages.test:{port}/",
    "http://%31%32%37.0.0.1:{port}/",
    "http://127。0。0。1:{port}/",
    "http://①②⑦.⓪.⓪.①:{port}/",
    "http://127.0.0.1:{port}/",
    "http://[::1]:{port}/",
    "http://[0:0:0:0:0:0:0:1]:{port}/",
    "http://[::]:{port}/",
    "http://[::127.0.0.1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[0:0:0:0:0:ffff:127.0.0.1]:{port}/",
    "http://[64:ff9b::127.0.0.1]:{port}/",
    "http://[64:ff9b::7f00:1]:{port}/",
    "http://[64:ff9b:1::7f00:1]:{port}/",
    "http://[2002:7f00:1::]:{port}/",
    "http://[2001:0:7f00:1::1]:{port}/",
    "http://[fe80::5efe:127.0.0.1]:{port}/",
    "http://[2a00::5efe:7f00:1]:{port}/",
    "http://[fe80::1%25lo]:{port}/",
    "http://[fc00::1]:{port}/",
    "http://[::1%25lo]:{port}/",
    "http://localhost:{port}/",
    "http://LOCALHOST:{port}/",
    "http://localhost.:{port}/",
    "http://user@127.0.0.1:{port}/",
    "http://images.test@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}@images.test/",
    "http://images.test:{port}#@127.0.0.1/",
    "http://127.0.0.1\\@images.test:{port}/",
    "http://images.test\t@127.0.0.1:{port}/",
    "http:\\\\127.0.0.1:{port}/",
    "http:///127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
    " http://127.0.0.1:{port}/",
    "ftp://127.0.0.1:{port}/",
    "file://127.0.0.1/etc/passwd",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/_GET",
    "data:image/png;base64,AAAA",
    "http://loop.test:{port}/",
    "http://mixed.test:{port}/",
    "http://mapped.test:{port}/",
    "http://10.0.0.1:{port}/",
    "http://100.64.0.1:{port}/",
    "http://169.254.169.254:{port}/latest/meta-data/",
    "http://192.168.0.1:{port}/",
    "http://224.0.0.1:{port}/",
    "http://255.255.255.255:{port}/",
]
NAMES = {
    "images.test": ["127.0.0.1"],
    "localhost": ["127.0.0.1", "::1"],
    "loop.test": ["127.0.0.1"],
    "mixed.test": [PUBLIC, "127.0.0.1"],
    "mapped.test": ["::ffff:127.0.0.1"],
}


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_a_closed_address_is_reached(sentinel: Sentinel, form: str) -> None:
    fetcher = Fetcher(["*"], ports=[sentinel.server_port], resolve=resolver(NAMES), timeout=2)
    error = refusal(fetcher, form.format(port=sentinel.server_port))
    assert error.reason in ("bad-url", "refused-address", "not-fetched")
    assert "127.0.0" not in str(error)
    assert not sentinel.seen


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.2:{port}/a.png",
        "//127.0.0.2:{port}/a.png",
        "http://other.test:{port}/a.png",
        "http://[::1]:{port}/a.png",
        "http://2130706434:{port}/a.png",
        "ftp://images.test/a.png",
        "http://user@images.test:{port}/a.png",
        "http://images.test:1/a.png",
    ],
)
def test_redirects_are_checked_as_the_first_url_is(sentinel: Sentinel, target: str) -> None:
    table = {"images.test": ["127.0.0.1"], "other.test": ["127.0.0.2"]}
    fetcher = inside(sentinel, hosts=["*"], resolve=resolver(table))
    error = refusal(fetcher, url(sentinel, "to/" + target.format(port=sentinel.server_port)))
    assert error.reason in ("bad-url", "refused-address")
    assert [path.split("/")[1] for path, _ in sentinel.seen] == ["to"]


def test_a_name_is_resolved_once_and_its_answer_is_what_is_asked(sentinel: Sentinel) -> None:
    """Rebinding: the answer that is checked is an allowed one, every later one another."""
    asked: list[str] = []

    def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    assert inside(sentinel, resolve=resolve).fetch(url(sentinel, "a.png")) == FILE
    assert asked == ["images.test"]


def test_only_the_hosts_and_ports_of_the_list_are_asked(sentinel: Sentinel) -> None:
    table = {name: ["127.0.0.1"] for name in ("images.test", "a.images.test", "notimages.test")}
    below = inside(sentinel, hosts=["*.images.test"], resolve=resolver(table))
    assert below.fetch(url(sentinel, "a.png", "a.images.test")) == FILE
    assert refusal(below, url(sentinel, "a.png")).reason == "refused-address"
    assert refusal(below, url(sentinel, "a.png", "notimages.test")).reason == "refused-address"
    other_port = inside(sentinel, ports=[1])
    assert refusal(other_port, url(sentinel, "a.png")).reason == "refused-address"
    assert len(sentinel.seen) == 1


@pytest.mark.parametrize("host", ["", "a b", "http://a.test", "*.*", "2130706433"])
def test_lists_that_are_written_wrongly(host: str) -> None:
    with pytest.raises(ConfigError, match="is no host"):
        Fetcher([host])
    with pytest.raises(ConfigError, match="no network"):
        Fetcher(["a.test"], allowed_addresses=["10.0.0.0/99"])
