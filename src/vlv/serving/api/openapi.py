"""The description of the API at /openapi.json, as this server keeps it."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

OPEN = ("/health", "/ready")
_METHODS = ("get", "post")


def describe(app: FastAPI, needs_key: bool, root_path: str) -> None:
    """Have the app say which of its routes need a key, and which answers they really give."""
    known: dict[str, Any] = {}

    def description() -> dict[str, Any]:
        if not known:
            known.update(_description(app, needs_key, root_path))
        return known

    app.openapi = description  # type: ignore[method-assign]


def _description(app: FastAPI, needs_key: bool, root_path: str) -> dict[str, Any]:
    servers = [{"url": root_path}] if root_path else None
    made = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        servers=servers,
    )
    if needs_key:
        made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in made["paths"].items():
        for method in _METHODS:
            if method in operations:
                _correct(operations[method], needs_key and path not in OPEN)
    for unused in ("HTTPValidationError", "ValidationError"):
        made["components"]["schemas"].pop(unused, None)
    whole: dict[str, Any] = _whole(made)
    return whole


def _whole(value: Any) -> Any:
    """Limits as they are: FastAPI makes numbers of them that stand for others beyond 2**53."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(one) for one in value]
    if isinstance(value, dict):
        return {key: _whole(one) for key, one in value.items()}
    return value


def _correct(operation: dict[str, Any], needs_key: bool) -> None:
    answers = operation["responses"]
    # FastAPI adds an answer of its own for what is invalid; here that is 400.
    if "HTTPValidationError" in str(answers.get("422", "")):
        del answers["422"]
    if needs_key:
        operation["security"] = [{"key": []}]
