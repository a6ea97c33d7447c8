"""Requests that would get no slot are refused before their bodies are read."""

from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from vlv.serving.errors import ApiError
from vlv.serving.service import Service


class Gate:
    """A server that is asked for more than it can do should spend next to nothing on what it will
    not do: what it spends, those whom it accepted wait for.

    routes: by path, those of which every POST takes a slot.
    """

    def __init__(self, app: ASGIApp, service: Service, routes: Mapping[str, Any]) -> None:
        self._app = app
        self._service = service
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer for the route that it did not reach."""
        if scope["type"] == "http" and scope["method"] == "POST":
            route = self._routes.get(scope["path"])
            try:
                if route is not None:
                    self._service.check()
            except ApiError as error:
                scope["route"] = route
                await error.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)
