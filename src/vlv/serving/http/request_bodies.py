"""Request bodies: JSON, no larger than a cap, no slower than a rate."""

import asyncio
import re
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from vlv.errors import VLVError
from vlv.serving.errors import ApiError
from vlv.serving.http.admission import Slot
from vlv.text import parse_json, well_formed

# A body has ten seconds, and a second more for each of so many bytes that have come.
_GRACE_SECONDS = 10.0
_BYTES_A_SECOND = 20_000
# What a request may hold that text cannot: one half of a pair of UTF-16 by itself.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class _NotJson(VLVError):
    """A body that is no JSON."""


def check_type(headers: Headers) -> None:
    """Raise ApiError, 415, unless the body is said to be JSON.

    Without this rule any page could send requests from its visitors' browsers.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not re.fullmatch(r"application/[\w.-]+\+json", kind):
        raise ApiError(
            415,
            "unsupported_media_type",
            "The body must be a JSON object, sent with Content-Type: application/json.",
        )


def declared_size(headers: Headers, most: int) -> int:
    """The Content-Length; 0 where there is none.

    Raises:
        ApiError: 413, it is above the cap.
    """
    declared = headers.get("content-length", "0")
    size = int(declared) if declared.isdecimal() else 0
    if size > most:
        raise too_large(most)
    return size


def too_large(most: int) -> ApiError:
    """The refusal of a body that is above the cap."""
    message = f"The request's body has more than {most / 1e6:g} MB; send a smaller image."
    return ApiError(413, "body_too_large", message)


async def read(receive: Receive, slot: Slot, most: int) -> bytes | None:
    """A whole body; None if the client left before it was complete.

    Raises:
        ApiError: 408, 413 or 429: it is too slow, too large, or too much beside the others.
    """
    loop = asyncio.get_running_loop()
    start = loop.time()
    late = ApiError(408, "slow_request", "The request's body took too long to arrive.")
    body = bytearray()  # grows in place: many small pieces would leave the memory in shreds
    async with slot.deadline(min(slot.until, start + _GRACE_SECONDS), late) as limit:
        while True:
            message: Message = await receive()
            if message["type"] == "http.disconnect":
                return None
            piece = message.get("body", b"")
            if len(body) + len(piece) > most:
                raise too_large(most)
            slot.reserve(len(piece))
            body += piece
            if not message.get("more_body", False):
                return bytes(body)
            due = start + _GRACE_SECONDS + len(body) / _BYTES_A_SECOND
            limit.reschedule(min(slot.until, due))


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object of a body; halves of surrogate pairs become replacement characters.

    Raises:
        ApiError: 400, it holds none.
    """
    try:
        value = parse_json(body, "The body", _NotJson)
    except _NotJson as error:
        raise ApiError(400, "invalid_request", f"{error}.") from error
    if not isinstance(value, dict):
        raise ApiError(400, "invalid_request", "The body must be a JSON object.")
    cleaned: dict[str, Any] = _well_formed(value) if _SURROGATE.search(body) else value
    return cleaned


def _well_formed(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list):
        return [_well_formed(one) for one in value]
    if isinstance(value, dict):
        return {well_formed(key): _well_formed(one) for key, one in value.items()}
    return value
