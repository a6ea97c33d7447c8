"""The HTTP application: its routes, the middleware around them, and error responses."""

from collections.abc import Collection
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

from vlv.serving.api import (
    chat,
    chat_schemas,
    ollama,
    ollama_schemas,
    responses,
    responses_schemas,
    routes,
)
from vlv.serving.api.answers import IGNORED_HEADER
from vlv.serving.api.context import Service
from vlv.serving.api.openapi import OOD_HEADER, customize_openapi
from vlv.serving.errors import ApiError, invalid_request
from vlv.serving.http.admission import AdmissionMiddleware
from vlv.serving.http.auth import AuthMiddleware
from vlv.serving.http.paths import PathMiddleware, RootPathMiddleware, nearest_path
from vlv.serving.settings import ServeSettings
from vlv.serving.telemetry import TelemetryMiddleware
from vlv.version import __version__

# Messages for fields that are known and not supported, by route.
_UNSUPPORTED = {
    "/v1/chat/completions": chat_schemas.UNSUPPORTED,
    "/v1/responses": responses_schemas.UNSUPPORTED,
    "/api/chat": ollama_schemas.UNSUPPORTED,
    "/api/generate": ollama_schemas.UNSUPPORTED,
}
PAGE = Path(__file__).parent / "page"
# The page loads nothing from other servers, runs no inline code, and cannot be framed. Images are
# data URLs. Browsers revalidate each file, so that an update is visible at once.
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
        """A file's response with the page's headers."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(PAGE_HEADERS)
        return response


def build_app(service: Service, settings: ServeSettings) -> ASGIApp:
    """The application of a service.

    Its middleware, from the outside: telemetry, root path, origins, keys, paths, admission.
    """
    app = FastAPI(
        title="vlv",
        version=__version__,
        description="Captions of images, and images generated from caption embeddings.",
        # These pages load scripts from other servers.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    routers = (routes.router, chat.router, responses.router, ollama.router)
    for router in routers:
        app.include_router(router)
    apis = [one for router in routers for one in router.routes if isinstance(one, APIRoute)]
    app.state.service = service
    app.state.paths = [route.path for route in apis]
    customize_openapi(app, bool(settings.api_keys), settings.root_path)
    app.get("/", include_in_schema=False)(_page)
    app.mount("/static", PageFiles(directory=PAGE))
    app.exception_handler(ApiError)(_api_error)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(HTTPException)(_http_error)
    app.exception_handler(Exception)(_internal)
    job_routes = {route.path: route for route in apis if "POST" in (route.methods or ())}
    stack: ASGIApp = AdmissionMiddleware(app, service.admit, job_routes, settings.max_body_bytes)
    stack = AuthMiddleware(PathMiddleware(stack), settings.api_keys)
    if settings.origins:
        stack = CORSMiddleware(
            stack,
            allow_origins=settings.origins,
            allow_methods=("GET", "HEAD", "POST"),
            # OpenAI's client for browsers sends many headers of its own.
            allow_headers=("*",),
            allow_private_network=True,
            expose_headers=("Retry-After", "X-Request-Id", IGNORED_HEADER, OOD_HEADER),
        )
    return TelemetryMiddleware(RootPathMiddleware(stack, settings.root_path), service.metrics)


async def _page() -> Response:
    return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)


async def _api_error(request: Request, error: ApiError) -> Response:
    return error.response()


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    unsupported = _UNSUPPORTED.get(request.scope["path"], {})
    fields = _fields(request.scope.get("route"))
    return invalid_request(error.errors(), error.body, unsupported, fields).response()


def _fields(route: Any) -> Collection[str]:
    """The names of the fields of a route's body."""
    body = getattr(route, "body_field", None)
    model = None if body is None else body.field_info.annotation
    return getattr(model, "model_fields", ())


async def _http_error(request: Request, error: HTTPException) -> Response:
    if error.status_code == 404:
        return ApiError(404, "not_found", _unknown_path(request)).response()
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "GET")
        message = f"This address accepts {allowed}, not {request.method}."
        response = ApiError(405, "method_not_allowed", message).response()
        # The routes know GET only, the files of the page HEAD too.
        methods = [one.strip() for one in allowed.split(",")]
        if "GET" in methods and "HEAD" not in methods:
            methods.insert(methods.index("GET") + 1, "HEAD")
        response.headers["Allow"] = ", ".join(methods)
        return response
    return ApiError(error.status_code, "invalid_request", f"{error.detail}.").response()


def _unknown_path(request: Request) -> str:
    nearest = nearest_path(request.scope["path"], request.app.state.paths)
    if nearest is not None:
        return f"There is nothing at this address; did you mean {nearest}?"
    return (
        "There is nothing at this address; captions are at /v1/chat/completions and "
        "/v1/vlv/caption, and /openapi.json lists all addresses."
    )


async def _internal(request: Request, error: Exception) -> Response:
    return ApiError(500, "internal_error", "The server failed on this request.").response()
