"""The OpenAPI description at /openapi.json: error responses, streams, keys, and corrections."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from vlv.serving.api.schemas import ErrorBody, OllamaError

OPEN_PATHS = ("/health", "/ready")
_METHODS = ("get", "post")
_ERROR_DESCRIPTIONS = {
    400: "The request is invalid; `param` names the field.",
    401: "The key is missing or wrong.",
    403: "The server has no key, and the Host header names another machine.",
    404: "The model does not exist.",
    408: "The body arrived too slowly.",
    413: "The body is too large.",
    415: "The Content-Type is not JSON.",
    422: "The image was refused; `code` is the reason.",
    429: "The queue is full; try again after `Retry-After` seconds.",
    500: "The model failed on this request.",
    501: "The model cannot do this.",
    503: "The model is not loaded yet, or the server is stopping.",
    504: "The deadline passed.",
}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route, beside 400, 401 and 403."""
    return {
        status: {"model": ErrorBody, "description": _ERROR_DESCRIPTIONS[status]}
        for status in (400, 401, 403, *statuses)
    }


def ollama_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route of Ollama's API, in its form."""
    return {
        status: {**response, "model": OllamaError}
        for status, response in error_responses(*statuses).items()
    }


_JOB_STATUSES = (408, 413, 415, 422, 429, 500, 501, 503, 504)
JOB_ERRORS = error_responses(*_JOB_STATUSES)
OLLAMA_JOB_ERRORS = ollama_errors(*_JOB_STATUSES)
OOD_HEADER = "X-VLV-Out-Of-Distribution"
OOD_HEADERS = {
    OOD_HEADER: {
        "description": "Whether the image is unlike the training images. Not sent with streams, "
        "or if the model has no out-of-distribution detector.",
        "schema": {"type": "string", "enum": ["true", "false"]},
    }
}
_EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}


def stream_or_json(
    headers: dict[str, Any],
    media_type: str = "text/event-stream",
    errors: dict[int | str, dict[str, Any]] = JOB_ERRORS,
) -> dict[int | str, dict[str, Any]]:
    """The responses of a route that answers with JSON or with a stream: of events, or of lines."""
    schema = _EVENT if media_type == "text/event-stream" else {"type": "object"}
    return {**errors, 200: {"content": {media_type: {"schema": schema}}, "headers": headers}}


def customize_openapi(app: FastAPI, needs_key: bool, root_path: str) -> None:
    """Describe which routes need a key, and the responses that they really give."""
    cached: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not cached:
            cached.update(_description(app, needs_key, root_path))
        return cached

    app.openapi = openapi  # type: ignore[method-assign]


def _description(app: FastAPI, needs_key: bool, root_path: str) -> dict[str, Any]:
    servers = [{"url": root_path}] if root_path else None
    description = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        servers=servers,
    )
    if needs_key:
        description["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in description["paths"].items():
        for method in _METHODS:
            if method in operations:
                _correct(operations[method], needs_key and path not in OPEN_PATHS)
    for unused in ("HTTPValidationError", "ValidationError"):
        description["components"]["schemas"].pop(unused, None)
    exact: dict[str, Any] = _exact_integers(description)
    return exact


def _exact_integers(value: Any) -> Any:
    """Limits as integers: FastAPI makes floats of them, which are inexact beyond 2**53."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_exact_integers(one) for one in value]
    if isinstance(value, dict):
        return {key: _exact_integers(one) for key, one in value.items()}
    return value


def _correct(operation: dict[str, Any], needs_key: bool) -> None:
    responses = operation["responses"]
    # FastAPI adds its own response for invalid requests, which get 400 here.
    if "HTTPValidationError" in str(responses.get("422", "")):
        del responses["422"]
    if needs_key:
        operation["security"] = [{"key": []}]
