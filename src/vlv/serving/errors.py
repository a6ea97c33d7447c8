"""Errors of the API, in the format of OpenAI's errors, and the messages for invalid requests."""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vlv.text import printable

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    501: "not_supported_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}
# Below it, other servers have their own API, and OpenAI's clients a wrong base URL.
_OLLAMA = re.compile("/api/(?!v1/)")
_RETRY_SECONDS = {429: 1, 503: 5}


class ApiError(Exception):
    """An error response. `code` is short and stable, so that programs can rely on it."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        retry_seconds: int | None = None,
    ) -> None:
        # The message may quote a name from a request, a file or a model.
        self.message = printable(message)
        super().__init__(self.message)
        self.status = status
        self.code = code
        self.param = param
        self._retry_seconds = retry_seconds

    def body(self) -> dict[str, Any]:
        """`{"error": {"message", "type", "code", "param"}}`."""
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, "invalid_request_error"),
                "code": self.code,
                "param": self.param,
            }
        }

    def response(self) -> Response:
        """The body with its status, and a Retry-After header where a retry can help."""
        headers = {}
        retry_seconds = self._retry_seconds or _RETRY_SECONDS.get(self.status)
        if retry_seconds is not None:
            headers["Retry-After"] = str(retry_seconds)
        if self.status == 408:
            # The rest of the body would be read as the next request.
            headers["Connection"] = "close"
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return _ErrorResponse(self, headers)


class _ErrorResponse(Response):
    """An error in the form of the API that was asked: OpenAI's, or below `/api/` Ollama's."""

    def __init__(self, error: ApiError, headers: dict[str, str]) -> None:
        super().__init__(json.dumps(error.body()), error.status, headers, "application/json")
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the error."""
        if _OLLAMA.match(scope["path"]):
            error = self._error
            body = {"error": error.message, "code": error.code, "param": error.param}
            self.body = json.dumps(body).encode()
            self.headers["content-length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


ValidationFinding = Mapping[str, Any]
"""One of pydantic's validation errors."""
# What a value must be, by the type of pydantic's error.
_MUST_BE: dict[str, Callable[[Any], str]] = {
    "string_type": lambda _: "text",
    "int_type": lambda _: "a whole number",
    "int_parsing": lambda _: "a whole number",
    "int_from_float": lambda _: "a whole number",
    "int_parsing_size": lambda _: "a smaller number",
    "float_type": lambda _: "a number",
    "finite_number": lambda _: "a finite number",
    "bool_type": lambda _: "true or false",
    "list_type": lambda _: "a list",
    "dict_type": lambda _: "an object",
    "model_type": lambda _: "an object",
    "model_attributes_type": lambda _: "an object",
    "none_required": lambda _: "null",
    "literal_error": lambda details: str(details["expected"]).replace("'", '"'),
    "greater_than_equal": lambda details: f"{_number(details['ge'])} or more",
    "greater_than": lambda details: f"more than {_number(details['gt'])}",
    "less_than_equal": lambda details: f"{_number(details['le'])} or less",
    "less_than": lambda details: f"less than {_number(details['lt'])}",
}
_MUST_HAVE: dict[str, Callable[[Any], str]] = {
    "string_too_short": lambda details: f"at least {details['min_length']} characters",
    "string_too_long": lambda details: f"at most {details['max_length']} characters",
    "too_short": lambda details: f"at least {details['min_length']} items",
    "too_long": lambda details: f"at most {details['max_length']} items",
}

# Names of other APIs for our fields.
_OTHER_NAMES = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "max_length": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "beams": "num_beams",
    "steps": "num_inference_steps",
    "num_steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "sampler": "scheduler",
    "prompt": "text",
    "image_url": "image",
    "embeddings": "z",
}


def invalid_request(
    findings: Sequence[ValidationFinding],
    body: Any,
    unsupported: Mapping[str, str],
    fields: Collection[str] = (),
) -> ApiError:
    """The error for the first thing that is wrong with a request; it names the field, never quotes
    its content.

    unsupported: messages for fields that are known but not supported, by field name. fields: those
    of the request, for a field that is not one of them.
    """
    # Where a field may have several types, the attempt that got deepest shows what was meant.
    deepest = max(len(_path(one, body)) for one in findings)
    first = next(one for one in findings if len(_path(one, body)) == deepest)
    path = _path(first, body)
    same = [one for one in findings if _path(one, body) == path]
    param = _dotted(path)
    if first["loc"][0] == "body" and path and path[0] in unsupported:
        message = unsupported[str(path[0])]
    elif (
        first["type"] == "extra_forbidden"
        and len(path) == 1
        and (meant := _meant(str(path[-1]), fields))
    ):
        message = f"There is no field `{param}` here; did you mean `{meant}`?"
    else:
        message = _sentence(f"`{param}`" if param else "The body", same)
    return ApiError(400, "invalid_request", message, param or None)


def _meant(name: str, fields: Collection[str]) -> str | None:
    """The field that another API, or a slip, calls by this name."""
    if (other := _OTHER_NAMES.get(name)) in fields:
        return other
    return next(iter(get_close_matches(name[:100], fields, 1, 0.75)), None)


def _sentence(name: str, findings: Sequence[ValidationFinding]) -> str:
    first = findings[0]
    kind, details = first["type"], first.get("ctx", {})
    if kind == "missing":
        return f"{name} is missing."
    if kind in ("extra_forbidden", "none_required"):
        return f"There is no field {name} here; leave it out."
    if kind == "value_error":
        return f"{str(first['msg']).removeprefix('Value error, ').rstrip('.')}."
    if kind == "union_tag_not_found":
        return f"{name} has no `type`."
    if kind == "union_tag_invalid":
        expected = str(details["expected_tags"]).replace("'", "`").replace(", ", " or ")
        tag = printable(str(details["tag"])[:40])
        return f"{name} must have the `type` {expected}, not `{tag}`."
    must = [
        _MUST_BE[one["type"]](one.get("ctx", {})) for one in findings if one["type"] in _MUST_BE
    ]
    if must:
        return f"{name} must be {' or '.join(dict.fromkeys(must))}."
    if kind in _MUST_HAVE:
        return f"{name} must have {_MUST_HAVE[kind](details)}."
    return f"{name} has a value that cannot be used here."


def _path(finding: ValidationFinding, body: Any) -> tuple[str | int, ...]:
    """The place in the body, without the names of the alternative types that pydantic tried."""
    place, *keys = finding["loc"]
    if place != "body":
        return tuple(keys)
    path: list[str | int] = []
    value, missing = body, finding["type"] == "missing"
    for at, key in enumerate(keys):
        last = at == len(keys) - 1
        # A field that is missing is no key of the object; the name of a type is none either.
        if (
            isinstance(value, dict)
            and isinstance(key, str)
            and (key in value or (last and missing))
        ):
            path.append(key)
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int) and key < len(value):
            path.append(key)
            value = value[key]
    return tuple(path)


def _dotted(path: Sequence[str | int]) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return printable(text.removeprefix(".")[:100])


def _number(limit: float) -> str:
    return str(int(limit)) if limit == int(limit) else str(limit)
