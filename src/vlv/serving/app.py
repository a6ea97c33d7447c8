"""The HTTP application: routes, the layers around them, and what errors look like."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from vlv.serving.api import chat, routes
from vlv.serving.api.chat_schemas import REFUSED
from vlv.serving.api.context import Service
from vlv.serving.api.openapi import describe
from vlv.serving.api.routes import OUT_OF_DISTRIBUTION
from vlv.serving.errors import ApiError
from vlv.serving.http.addresses import Addresses, RootPath, nearest
from vlv.serving.http.auth import Auth
from vlv.serving.http.gate import Gate
from vlv.serving.settings import ServeSettings
from vlv.serving.telemetry import RequestLog
from vlv.serving.validation import invalid
from vlv.version import __version__

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
    """The application around a service; its layers, from the outside: log, prefix, origins, keys,
    addresses, gate.
    """
    app = FastAPI(
        title="vlv",
        version=__version__,
        description="Captions of images, and images out of caption embeddings.",
        # These pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    routers = (routes.router, chat.router)
    for router in routers:
        app.include_router(router)
    apis = [one for router in routers for one in router.routes if isinstance(one, APIRoute)]
    app.state.service = service
    app.state.addresses = [route.path for route in apis]
    describe(app, bool(settings.api_keys), settings.root_path)
    if PAGE.is_dir():
        app.get("/", include_in_schema=False)(_page)
        app.mount("/static", PageFiles(directory=PAGE))
    app.exception_handler(ApiError)(_api_error)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(HTTPException)(_http_error)
    app.exception_handler(Exception)(_internal)
    work = {route.path: route for route in apis if "POST" in (route.methods or ())}
    layers: ASGIApp = Gate(app, service, work, settings.max_body_bytes)
    layers = Auth(Addresses(layers), settings.api_keys)
    if settings.origins:
        layers = CORSMiddleware(
            layers,
            allow_origins=settings.origins,
            allow_methods=("GET", "HEAD", "POST"),
            # OpenAI's client for browsers sends many of its own.
            allow_headers=("*",),
            allow_private_network=True,
            expose_headers=("Retry-After", "X-Request-Id", chat.IGNORED, *OUT_OF_DISTRIBUTION),
        )
    return RequestLog(RootPath(layers, settings.root_path), service.metrics)


async def _page() -> Response:
    return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)


async def _api_error(request: Request, error: ApiError) -> Response:
    return error.response()


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    meant = REFUSED if request.url.path.endswith("/chat/completions") else {}
    return invalid(error.errors(), error.body, meant).response()


async def _http_error(request: Request, error: HTTPException) -> Response:
    if error.status_code == 404:
        return ApiError(404, "not_found", _nothing_there(request)).response()
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "GET")
        message = f"This address takes {allowed}, not {request.method}."
        response = ApiError(405, "method_not_allowed", message).response()
        response.headers["Allow"] = allowed.replace("GET", "GET, HEAD")
        return response
    return ApiError(error.status_code, "invalid_request", f"{error.detail}.").response()


def _nothing_there(request: Request) -> str:
    meant = nearest(request.scope["path"], request.app.state.addresses)
    if meant is not None:
        return f"There is nothing at this address; did you mean {meant}?"
    return (
        "There is nothing at this address; captions are at /v1/chat/completions and "
        "/v1/vlv/caption, and all addresses in /openapi.json."
    )


async def _internal(request: Request, error: Exception) -> Response:
    return ApiError(500, "internal_error", "The server failed on this request.").response()
