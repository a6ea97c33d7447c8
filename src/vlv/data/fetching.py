"""Fetches images from URLs of unknown origin, for the server, bulk jobs and teacher captions.

Nothing is fetched without a `Fetcher`. It returns the bytes of a file without inspecting them;
`vlv.data.images` and `vlv.data.isolated` decode them. No cookies, no credentials, no proxies.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import string
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from vlv.data.addresses import Address, is_host, is_public, matches, parse_address
from vlv.data.deadline import Deadline
from vlv.errors import ConfigError, ImageError
from vlv.version import __version__

_DEFAULT_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {
    "Accept": "image/*",
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": f"vlv/{__version__}",
}
_PRINTABLE = set(string.ascii_letters + string.digits + string.punctuation) - {"\\"}

Resolver = Callable[[str, int], Sequence[str]]


def system_addresses(host: str, port: int) -> list[str]:
    """The IP addresses of a host, from the system's resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(place[0]) for *_, place in found]


class Fetcher:
    """Fetches images from public hosts, and connects to no other address for any URL.

    A name is resolved once, and the connection goes to the address that was checked. Every redirect
    is checked again. Several threads may call it.

    Args:
        hosts: the hosts that may be asked: `example.org`, `*.example.org` (all below it), or `*`
            (any public host).
        ports: the TCP ports that may be asked.
        allowed_addresses: addresses or networks (`10.1.0.0/16`) that may be asked although they
            are not public, for image servers inside one's own network.
        timeout: seconds in total, from resolving the name to the last byte, with all redirects.
        max_bytes: the largest file that is fetched.
        max_redirects: how many redirects are followed.
        resolve: returns the IP addresses of (host, port).

    Raises:
        ConfigError: a host or network is not valid.
    """

    def __init__(
        self,
        hosts: Iterable[str],
        *,
        ports: Iterable[int] = (80, 443),
        allowed_addresses: Iterable[str] = (),
        timeout: float = 10.0,
        max_bytes: int = 20_000_000,
        max_redirects: int = 3,
        resolve: Resolver = system_addresses,
    ) -> None:
        self._hosts = [_host_pattern(host) for host in hosts]
        self._ports = frozenset(ports)
        self._networks = [_network(text) for text in allowed_addresses]
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._max_redirects = max_redirects
        self._resolve = resolve
        self._tls = ssl.create_default_context()

    def fetch(self, url: str) -> bytes:
        """The file at a URL; in asyncio: `await asyncio.to_thread(fetcher.fetch, url)`.

        Raises:
            ImageError: it was not fetched. `reason` is `bad-url`, `refused-address`,
                `not-fetched` or `too-large-file`; the message holds no address.
        """
        deadline = Deadline(self._timeout)
        for _ in range(self._max_redirects + 1):
            target = _parse(url)
            try:
                answer = self._get(target, self._addresses(target, deadline), deadline)
            except (OSError, http.client.HTTPException, UnicodeError) as error:
                raise _not_fetched(_cause(error, deadline, self._timeout)) from error
            if isinstance(answer, bytes):
                return answer
            url = _joined(url, answer)
        raise _not_fetched(f"it is redirected more than {self._max_redirects} times")

    def _addresses(self, target: "_Target", deadline: Deadline) -> list[Address]:
        """The addresses of a target; if one of them is not allowed, all are refused.

        Raises:
            ImageError: the host, port or an address may not be asked.
            OSError: the name does not resolve in time.
        """
        if not matches(target.host, self._hosts):
            raise _refused("its host is not among the hosts that may be asked")
        if target.port not in self._ports:
            raise _refused("its port is not among the ports that may be asked")
        address = parse_address(target.host)
        if address is not None:
            addresses = [address]
        else:
            found = _before(deadline, self._resolve, target.host, target.port)
            addresses = [ipaddress.ip_address(text) for text in found]
        if not all(self._may_be_asked(address) for address in addresses):
            raise _refused("its address is not a public one")
        return addresses

    def _may_be_asked(self, address: Address) -> bool:
        return is_public(address) or any(address in network for network in self._networks)

    def _get(self, target: "_Target", addresses: list[Address], deadline: Deadline) -> bytes | str:
        """The file, or the URL to which it is redirected."""
        with _connection(target, addresses, deadline, self._tls) as connection:
            connection.request("GET", target.path, headers=_HEADERS)
            response = connection.getresponse()
            location = response.getheader("Location")
            if response.status in _REDIRECTS and location:
                return _quoted(location.encode("latin-1"))
            if response.status != 200:
                raise _not_fetched(f"the server answered with status {response.status}")
            if response.getheader("Content-Encoding", "identity").lower() != "identity":
                raise _not_fetched("the server compressed it, against what it was asked for")
            data = response.read(self._max_bytes + 1)
            if len(data) > self._max_bytes or (response.length or 0) > self._max_bytes:
                cap = f"{self._max_bytes / 1_000_000:g} MB"
                message = f"the image URL cannot be fetched: the file has more than {cap}"
                raise ImageError("too-large-file", message)
            if response.length:
                raise http.client.IncompleteRead(data, response.length)
            return data


@dataclass(frozen=True)
class _Target:
    scheme: str
    host: str
    port: int
    path: str
    """Path and query, as they are sent."""


def _parse(url: str) -> _Target:
    text = _quoted(url.encode(errors="surrogatepass"))
    if not _PRINTABLE.issuperset(text):
        raise _bad_url("it holds spaces, control characters or backslashes")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _bad_url("it is malformed") from error
    if parts.scheme not in _DEFAULT_PORTS:
        raise _bad_url("it is neither http nor https")
    if "@" in parts.netloc:
        raise _bad_url("it holds credentials")
    if not is_host(host):
        raise _bad_url("its host is neither a name in ASCII nor an address in its usual form")
    if port is None:
        port = _DEFAULT_PORTS[parts.scheme]
    query = f"?{parts.query}" if parts.query else ""
    return _Target(parts.scheme, host, port, (parts.path or "/") + query)


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise _bad_url("it is redirected to a malformed one") from error


def _quoted(url: bytes) -> str:
    """Percent-encode all that is not ASCII. A host name that this changes is then not valid."""
    return "".join(chr(byte) if byte < 128 else f"%{byte:02X}" for byte in url)


@contextlib.contextmanager
def _connection(
    target: _Target, addresses: list[Address], deadline: Deadline, tls: ssl.SSLContext
) -> Iterator[http.client.HTTPConnection]:
    """A connection to one of the addresses, under the host's name, that ends at the deadline.

    A timeout of the socket alone would begin anew with each byte that a slow server sends.
    """
    with contextlib.ExitStack() as cleanup:
        plain = cleanup.enter_context(_connect(addresses, target.port, deadline))
        handle = cleanup.enter_context(plain.dup())
        alarm = threading.Timer(deadline.left(), _shut, [handle])
        alarm.daemon = True
        alarm.start()
        cleanup.callback(alarm.cancel)
        connection: http.client.HTTPConnection
        if target.scheme == "https":
            connection = http.client.HTTPSConnection(target.host, target.port, context=tls)
            secured = tls.wrap_socket(plain, server_hostname=target.host)
            connection.sock = cleanup.enter_context(secured)
        else:
            connection = http.client.HTTPConnection(target.host, target.port)
            connection.sock = plain
        connection.auto_open = 0  # it would resolve the name once more
        yield connection


def _connect(addresses: list[Address], port: int, deadline: Deadline) -> socket.socket:
    failure = OSError("the name has no addresses")
    for address in addresses:
        try:
            return socket.create_connection((str(address), port), timeout=deadline.left())
        except OSError as error:
            failure = error
    raise failure


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _before(deadline: Deadline, resolve: Resolver, host: str, port: int) -> Sequence[str]:
    """Resolve before the deadline, in a thread: the system's resolver has no timeout."""
    future: Future[Sequence[str]] = Future()

    def run() -> None:
        try:
            future.set_result(resolve(host, port))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(deadline.left())


def _host_pattern(text: str) -> str:
    pattern = text.lower()
    if pattern != "*" and not is_host(pattern.removeprefix("*.")):
        raise ConfigError(
            f"{text!r} is no host; write a name, `*.name`, or `*` for any public host"
        )
    return pattern


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigError(f"{text!r} is no address and no network ({error})") from error


def _cause(error: Exception, deadline: Deadline, timeout: float) -> str:
    """The cause of a failure, in words that disclose nothing about this network."""
    if deadline.passed or isinstance(error, TimeoutError):
        return f"it did not arrive within {timeout:g} seconds"
    if isinstance(error, socket.gaierror | UnicodeError):
        return "its host does not resolve"
    if isinstance(error, ssl.SSLError):
        return "its host cannot prove who it is, or speaks no TLS"
    return "the connection failed or ended early"


def _bad_url(what: str) -> ImageError:
    return ImageError("bad-url", f"the image URL cannot be fetched: {what}")


def _refused(what: str) -> ImageError:
    return ImageError("refused-address", f"the image URL is not fetched: {what}")


def _not_fetched(what: str) -> ImageError:
    return ImageError("not-fetched", f"the image URL was not fetched: {what}")
