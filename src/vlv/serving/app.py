"""The HTTP application: routes, the layers around them, and what errors look like."""

from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from vlv import __version__
from vlv.serving import chat, routes
from vlv.serving.auth import Auth
from vlv.serving.bodies import Bodies
from vlv.serving.errors import ApiError
from vlv.serving.gate import Gate
from vlv.serving.logs import RequestLog
from vlv.serving.service import Service
from vlv.serving.settings import ServeSettings

PAGE = Path(__file__).parent / "page"
# The page loads nothing from elsewhere, runs no inline code, and is shown in no other page. Data
# URLs are pictures. Browsers ask anew each time, so that an update is seen at once.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class PageFiles(StaticFiles):
    """The files of the web page, with its headers."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """As for any file, and the headers."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(PAGE_HEADERS)
        return response


def build_app(service: Service, settings: ServeSettings) -> ASGIApp:
    """The application around a service; its layers, from the outside: log, keys, gate, bodies."""
    app = FastAPI(
        title="vlv",
        version=__version__,
        description="Captions of images, and images out of caption embeddings.",
        # These pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    key = [Depends(HTTPBearer(auto_error=False))]
    routers = (routes.router, chat.router)
    for router in routers:
        app.include_router(router, dependencies=key)
    if PAGE.is_dir():
        app.get("/", include_in_schema=False)(_page)
        app.mount("/static", PageFiles(directory=PAGE))
    app.exception_handler(ApiError)(_api_error)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(HTTPException)(_http_error)
    app.exception_handler(Exception)(_internal)
    bodies = Bodies(app, int(settings.max_body_mb * 1e6), settings.timeout)
    work = {
        route.path: route
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute) and "POST" in (route.methods or ())
    }
    gate = Gate(bodies, service, work)
    return RequestLog(Auth(gate, settings.api_keys), service.metrics)


async def _page() -> Response:
    return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)


async def _api_error(request: Request, error: ApiError) -> Response:
    return error.response()


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    """The first thing that is wrong, by the field's name and never by its content."""
    # Of a field that may be one thing or another, the try that came deepest says what was meant.
    first = max(error.errors(), key=lambda one: len(one["loc"]))
    if first["type"] == "json_invalid":
        message = f"The body is no JSON: {first['ctx']['error']}."
        return ApiError(400, "invalid_request", message).response()
    if first["loc"] == ("body",) and first["type"] in ("model_attributes_type", "missing"):
        message = "The body is to be a JSON object, sent with Content-Type: application/json."
        return ApiError(400, "invalid_request", message).response()
    # The first place is "body" or "query".
    param = ".".join(str(place) for place in first["loc"][1:]) or None
    told = str(first["msg"]).removeprefix("Value error, ")
    message = f"{param}: {told}" if param else told
    return ApiError(400, "invalid_request", message, param).response()


async def _http_error(request: Request, error: HTTPException) -> Response:
    codes = {404: "not_found", 405: "method_not_allowed"}
    code = codes.get(error.status_code, "invalid_request")
    response = ApiError(error.status_code, code, f"{error.detail}.").response()
    response.headers.update(error.headers or {})
    return response


async def _internal(request: Request, error: Exception) -> Response:
    return ApiError(500, "internal_error", "The server failed on this request.").response()
