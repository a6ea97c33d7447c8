"""Access: every path needs a key, except those listed here, as the client sent them.

The check comes before routing and looks at raw bytes, so that no spelling of a path (escapes,
dots, doubled slashes, case, absolute targets) means one thing here and another in routing.
"""

import re
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from vlv.errors import ConfigError
from vlv.serving.errors import ApiError
from vlv.serving.http.keys import ApiKey, find_key

# What load balancers ask.
_PROBES = (b"/health", b"/ready")
_OPEN = re.compile(rb"/|/health|/ready|/static/[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_ORIGIN = re.compile(
    r"(?P<scheme>https?|[a-z][a-z0-9-]*-extension)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])"
    r"(:(?P<port>\d{1,5}))?/?"
)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LOOPBACK_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)


def check_exposure(host: str, keys: Sequence[ApiKey]) -> None:
    """Raise ConfigError if other machines could reach a server that needs no key."""
    if not keys and host not in _LOOPBACK:
        raise ConfigError(
            f"without a key, the server may listen on this machine only, not on {host}; set "
            "VLV_API_KEY or --api-key-file, or leave out --host"
        )


def check_origins(origins: Sequence[str]) -> tuple[str, ...]:
    """Origins of web pages in the form that browsers send.

    Raises:
        ConfigError: one is not an origin.
    """
    return tuple(_origin(one) for one in origins)


def _origin(text: str) -> str:
    match = _ORIGIN.fullmatch(text.strip().lower())
    if match is None:
        raise ConfigError(
            f"--allow-origin takes addresses such as https://app.example or http://localhost:3000, "
            f"not {text!r}"
        )
    scheme, host, port = match["scheme"], match["host"], match["port"]
    usual = {"http": "80", "https": "443"}.get(scheme)
    return f"{scheme}://{host}" + (f":{port}" if port and port != usual else "")


def check_root_path(text: str) -> str:
    """A prefix of paths, without a slash at its end.

    Raises:
        ConfigError: it is not a path.
    """
    prefix = text.rstrip("/")
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", prefix) or "/." in prefix:
        raise ConfigError(f"--root-path takes a path such as /vlv, not {text!r}")
    return prefix


class AuthMiddleware:
    """Answers 401 unless the request has one of the keys, or the path needs none.

    Without keys the server serves only this machine. Then the Host header must name this machine,
    which prevents DNS rebinding; other requests than probes are answered with 403.

    `scope["state"]` gets the `key` of the request.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[ApiKey]) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401 or 403."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and self._allowed(scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._refusal().response()(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    def _allowed(self, scope: Scope) -> bool:
        headers = scope["headers"]
        if not self._keys:
            if scope["raw_path"] in _PROBES:
                return True
            hosts = [value for name, value in headers if name == b"host"]
            return len(hosts) == 1 and bool(_LOOPBACK_HOST.fullmatch(hosts[0].decode("latin-1")))
        if _OPEN.fullmatch(scope["raw_path"]):
            return True
        given = [value for name, value in headers if name == b"authorization"]
        scheme, _, key = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        found = find_key(self._keys, key.strip())
        if found is None or scheme.lower() != b"bearer":
            return False
        scope.setdefault("state", {})["key"] = found
        return True

    def _refusal(self) -> ApiError:
        if self._keys:
            message = "This request needs a valid key; send `Authorization: Bearer KEY`."
            return ApiError(401, "invalid_api_key", message)
        message = "A server without a key accepts only localhost and 127.0.0.1 as the Host header."
        return ApiError(403, "refused_host", message)
