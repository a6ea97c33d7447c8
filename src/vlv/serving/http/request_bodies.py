"""Request bodies: JSON, no larger than a limit, no slower than a rate."""

import re
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from vlv.errors import VLVError
from vlv.serving.errors import ApiError
from vlv.text import parse_json, well_formed

# A body has ten seconds, and one more second for each of so many bytes that arrived.
_GRACE_SECONDS = 10.0
_BYTES_A_SECOND = 20_000
# JSON can contain half of a UTF-16 surrogate pair, which text cannot.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class _NotJson(VLVError):
    """The body is not JSON."""


def check_content_type(headers: Headers, path: str) -> None:
    """Raise ApiError, 415, unless the Content-Type is JSON, and the body is not compressed.

    Without this rule any web page could send requests from its visitors' browsers. Clients of
    Ollama do not send it, so there a request that is not from a browser needs none.
    """
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise ApiError(
            415,
            "unsupported_media_type",
            "The body must not be compressed; send it without Content-Encoding.",
        )
    if path.startswith("/api/") and "origin" not in headers and "sec-fetch-site" not in headers:
        return
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not re.fullmatch(r"application/[\w.-]+\+json", kind):
        raise ApiError(
            415,
            "unsupported_media_type",
            "The body must be a JSON object, sent with Content-Type: application/json.",
        )


def declared_size(headers: Headers, max_bytes: int) -> int:
    """The Content-Length; 0 if there is none.

    Raises:
        ApiError: 413, it is above the limit.
    """
    declared = headers.get("content-length", "0")
    size = int(declared) if declared.isdecimal() else 0
    if size > max_bytes:
        raise _too_large(max_bytes)
    return size


def seconds_allowed(received: int) -> float:
    """Seconds from the start of a body until the next piece must arrive."""
    return _GRACE_SECONDS + received / _BYTES_A_SECOND


async def read_body(
    receive: Receive, max_bytes: int, on_piece: Callable[[int, int], None]
) -> bytes | None:
    """A whole body; None if the client disconnected before it was complete.

    on_piece: called with the size of each piece and of all pieces before the piece is kept.

    Raises:
        ApiError: 413, the body is too large.
    """
    body = bytearray()  # grows in place: a list of many small pieces would fragment the memory
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return None
        piece = message.get("body", b"")
        if len(body) + len(piece) > max_bytes:
            raise _too_large(max_bytes)
        on_piece(len(piece), len(body) + len(piece))
        body += piece
        if not message.get("more_body", False):
            return bytes(body)


def parse_body(body: bytes) -> dict[str, Any]:
    """The JSON object of a body; halves of surrogate pairs become replacement characters.

    Raises:
        ApiError: 400, the body is no JSON object.
    """
    try:
        value = parse_json(body, "The body", _NotJson)
    except _NotJson as error:
        raise ApiError(400, "invalid_request", f"{error}.") from error
    if not isinstance(value, dict):
        raise ApiError(400, "invalid_request", "The body must be a JSON object.")
    cleaned: dict[str, Any] = _well_formed(value) if _SURROGATE.search(body) else value
    return cleaned


def _too_large(max_bytes: int) -> ApiError:
    message = f"The request's body has more than {max_bytes / 1e6:g} MB; send a smaller image."
    return ApiError(413, "body_too_large", message)


def _well_formed(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list):
        return [_well_formed(one) for one in value]
    if isinstance(value, dict):
        return {well_formed(key): _well_formed(one) for key, one in value.items()}
    return value
