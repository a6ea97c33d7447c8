"""What goes to a vLLM server and comes from it: its key, tensors, events, errors.

Knows HTTP; knows nothing of captions. What a server sends is bounded and checked.
"""

import base64
import io
import json
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import httpx
import torch
from torch import Tensor

from vlv.endpoints.address import key_in, shown_address
from vlv.errors import ConfigError
from vlv.text import printable

KEY_VARIABLE = "VLV_ENGINE_KEY"
# Bytes of a line of an answer, and of an error.
_MOST_BYTES = 1_000_000


class Failed(Exception):
    """Why a request has no answer; `again`: another try may have one; `refused`: the request alone
    is to blame.
    """

    def __init__(self, message: str, again: bool, refused: bool = False) -> None:
        super().__init__(message)
        self.again = again
        self.refused = refused


def encoded(e: Tensor) -> str:
    """Prompt embeddings e as vLLM's server reads them: the bytes of `torch.save` in base64."""
    file = io.BytesIO()
    torch.save(e.contiguous(), file)
    return base64.b64encode(file.getvalue()).decode("ascii")


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The JSON objects of a stream of server-sent events. Raises Failed."""
    buffer = b""
    for part in response.iter_bytes():
        *lines, buffer = (buffer + part).split(b"\n")
        if len(buffer) > _MOST_BYTES:
            raise Failed("the server's answer has a line without an end", again=False)
        for line in lines:
            data = line.removeprefix(b"data:").strip()
            if not line.startswith(b"data:") or data == b"[DONE]":
                continue
            try:
                event = json.loads(data)
            except ValueError:
                event = None
            if not isinstance(event, dict):
                raise Failed("the server's answer is no JSON", again=False)
            yield event


def message_of(response: httpx.Response) -> str:
    """What a server says of an error, on one line."""
    content = b""
    for part in response.iter_bytes():
        content += part
        if len(content) > _MOST_BYTES:
            break
    try:
        error = json.loads(content)
        error = error.get("error", error)
        return printable(" ".join(str(error.get("message", "")).split()))[:300]
    except (ValueError, AttributeError):
        return ""


def checked_key(url: str) -> str | None:
    """The key for an address. Raises ConfigError for one beyond this machine without a key."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"--engine-url is {shown_address(url)!r}, and is an address such as "
            "http://127.0.0.1:8000/v1"
        )
    key = key_in(KEY_VARIABLE)
    if key is None and not is_loopback(url):
        raise ConfigError(
            f"{printable(parts.hostname)} is not this machine, so that its vLLM server needs a "
            f"key; start it with --api-key, and set {KEY_VARIABLE} to the same"
        )
    return key


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own, by its form."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
