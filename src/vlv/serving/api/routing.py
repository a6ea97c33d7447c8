"""What all routes share: parsed bodies, and the service as a dependency."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from vlv.serving.api.context import Service


class JsonRoute(APIRoute):
    """Takes the body that `AdmissionMiddleware` has read and parsed."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of any route, called with the parsed body."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(_ParsedRequest(request.scope, request.receive))

        return handler


class _ParsedRequest(Request):
    async def body(self) -> bytes:
        # The text is not kept beside the parsed body.
        return b"{}" if "json" in self.scope["state"] else b""

    async def json(self) -> Any:
        return self.scope["state"]["json"]


def get_service(request: Request) -> Service:
    """The service of the app."""
    service: Service = request.app.state.service
    return service


ServiceDependency = Annotated[Service, Depends(get_service)]
