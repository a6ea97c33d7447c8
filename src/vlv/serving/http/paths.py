"""Paths as clients write them: the prefix of a proxy, spellings, and suggestions for wrong ones.

Two layers: one removes a reverse proxy's prefix (before the check of keys, which looks at the
rest), and one normalises the spelling of a path (after it).
"""

from collections.abc import Iterable
from difflib import get_close_matches

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RootPathMiddleware:
    """Removes the prefix of a reverse proxy, whether or not the proxy has removed it already."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the path on without the prefix; redirect the bare prefix to the page."""
        prefix, path = self._prefix, scope.get("raw_path", b"")
        if prefix and path == prefix:
            await RedirectResponse(f"{prefix.decode()}/", 308)(scope, receive, send)
            return
        if prefix and path.startswith(prefix + b"/"):
            scope["raw_path"] = path[len(prefix) :]
            scope["path"] = scope["path"][len(prefix) :]
        await self._app(scope, receive, send)


class PathMiddleware:
    """Collapses doubled slashes, removes trailing ones, and serves HEAD as GET without content."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the normalised path on."""
        if scope["type"] == "http":
            scope["path"] = "/" + "/".join(filter(None, scope["path"].split("/")))
            if scope["method"] == "HEAD":
                scope["method"] = "GET"
                send = _without_content(send)
        await self._app(scope, receive, send)


def _without_content(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_head


def nearest_path(path: str, known: Iterable[str]) -> str | None:
    """The known path that a wrong path was probably meant to be.

    One ends with the other (a base URL has `/v1` twice or not at all), or they are almost equal.
    """
    paths = [one for one in known if "{" not in one and one != "/"]
    wanted = "/" + "/".join(filter(None, path.lower().split("/")))
    suffixes = [
        one for one in paths if wanted.endswith(one) or (wanted != "/" and one.endswith(wanted))
    ]
    if suffixes:
        return max(suffixes, key=len)
    close = get_close_matches(wanted[:100], paths, 1, 0.75)
    return close[0] if close else None
