"""Addresses as clients put them together: what is meant is found, or named.

Two layers: one below which every path may begin with a prefix (before the check of keys, which
looks at what is left), and one that takes spellings of a path for one (after it).
"""

from collections.abc import Iterable
from difflib import get_close_matches

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RootPath:
    """Takes the prefix of a reverse proxy off, whether or not the proxy has done so already."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go on without the prefix; the prefix itself is the page's address but for a slash."""
        prefix, path = self._prefix, scope.get("raw_path", b"")
        if prefix and path == prefix:
            await RedirectResponse(f"{prefix.decode()}/", 308)(scope, receive, send)
            return
        if prefix and path.startswith(prefix + b"/"):
            scope["raw_path"] = path[len(prefix) :]
            scope["path"] = scope["path"][len(prefix) :]
        await self._app(scope, receive, send)


class Addresses:
    """Doubled slashes are one, and one at the end is none. HEAD is GET without its content."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go on with the one spelling that there is a route for."""
        if scope["type"] == "http":
            scope["path"] = "/" + "/".join(filter(None, scope["path"].split("/")))
            if scope["method"] == "HEAD":
                scope["method"] = "GET"
                send = _without_content(send)
        await self._app(scope, receive, send)


def _without_content(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return sending


def nearest(path: str, known: Iterable[str]) -> str | None:
    """The known address that a path was probably meant to be.

    Either ends as the other does, as where a base URL has `/v1` twice or not at all, or they are
    almost the same.
    """
    addresses = [address for address in known if "{" not in address and address != "/"]
    last = "/" + "/".join(filter(None, path.lower().split("/")))
    ends = [one for one in addresses if last.endswith(one) or (last != "/" and one.endswith(last))]
    if ends:
        return max(ends, key=len)
    close = get_close_matches(last[:100], addresses, 1, 0.75)
    return close[0] if close else None
