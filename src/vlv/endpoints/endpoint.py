"""A model behind an OpenAI-compatible address, and what it answers to one request.

What comes back is an `Answer`, or an error that says what to do next: `TryAgain` (the server is
busy or broken), `Rejected` (this request gets no answer), or a `ConfigError` (no request would get
one: a wrong key, an unknown model, an empty account). Knows nothing of what is asked.
"""

import io
import json
import math
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from PIL import Image

from vlv.endpoints.address import address_below, shown_address
from vlv.errors import ConfigError, VLVError
from vlv.text import printable, well_formed

try:
    import httpx
except ImportError as error:
    raise ConfigError(
        "httpx, which this command needs, is not installed; run: pip install 'vlv[data]'"
    ) from error

_MAX_RESPONSE = 4_000_000
_BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_HOPELESS = frozenset({301, 302, 303, 307, 308, 401, 402, 403, 404, 405})
# Codes of an account that has no credit; they come with the status of a server that is busy.
_NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached")


class TryAgain(VLVError):
    """No answer now. `after`: seconds that the server asks to wait."""

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


class Rejected(VLVError):
    """The server does not accept this request, and did not answer it."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Answer:
    """A response that is on the bill. Token counts are 0 where the server does not report them."""

    text: str
    finish: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    """From the request to the end of the response."""
    only_thoughts: bool = False
    """A model that thinks before it answers has thought, and not answered."""


def jpeg_for(image: Image.Image, max_side: int) -> bytes:
    """A picture as it is sent: no larger than `max_side` pixels, without metadata."""
    if max(image.size) > max_side:
        image = image.copy()
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


class Endpoint:
    """An OpenAI-compatible server; use it in an `async with`."""

    def __init__(self, base_url: str, key: str | None, *, timeout: float, connections: int) -> None:
        self._url = address_below(base_url, "/chat/completions")
        self._shown = shown_address(self._url)
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10)),
            limits=httpx.Limits(max_connections=connections),
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            trust_env=True,  # proxies of the user's environment
        )

    async def __aenter__(self) -> "Endpoint":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def ask(self, body: dict[str, Any]) -> Answer:
        """Send a request.

        Raises:
            TryAgain, Rejected: see above.
            ConfigError: no request would be answered.
        """
        start = time.perf_counter()
        try:
            async with self._client.stream("POST", self._url, json=body) as response:
                status, headers = response.status_code, response.headers
                content = await _bounded(response)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise TryAgain(f"{self._shown} does not answer ({error})") from error
        except httpx.RequestError as error:
            name = type(error).__name__
            raise TryAgain(f"{self._shown} ended without an answer ({error or name})") from error
        except httpx.InvalidURL as error:
            raise ConfigError(f"{self._shown} is no valid address ({error})") from error
        if status == 200:
            return replace(_answer(content), seconds=time.perf_counter() - start)
        raise self._error(status, headers, content)

    def _error(self, status: int, headers: httpx.Headers, content: bytes) -> VLVError:
        message, code = _message(content)
        shown = f"the server answers {status}" + (f" ({message})" if message else "")
        if code in _NO_CREDIT:
            return ConfigError(f"{shown}: the account has no credit left; add some, and go on")
        if status in _BUSY or status >= 500:
            return TryAgain(shown, retry_after(headers.get("retry-after")))
        if status in _HOPELESS:
            return ConfigError(
                f"{shown} at {self._shown}; check --base-url, --model and the key in --api-key-env"
            )
        policy = "content" in f"{code}" or "policy" in f"{code}"
        return Rejected(shown, "refusal" if policy else "rejected")


async def _bounded(response: httpx.Response) -> bytes:
    parts, size = [], 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > _MAX_RESPONSE:
            raise TryAgain("the server's answer has no end")
    return b"".join(parts)


def _answer(content: bytes) -> Answer:
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        message = choice["message"]
        usage = body.get("usage") or {}
        text = message.get("content") or ""
        if isinstance(text, list):  # parts, as some servers send them
            text = "".join(part.get("text", "") for part in text)
        thought = bool(message.get("reasoning_content") or message.get("reasoning"))
        said = _without_thoughts(well_formed(str(text)))
        finish = "content_filter" if message.get("refusal") else choice.get("finish_reason")
        return Answer(
            said,
            str(finish or "stop"),
            max(0, int(usage.get("prompt_tokens") or 0)),
            max(0, int(usage.get("completion_tokens") or 0)),
            only_thoughts=not said.strip() and (thought or bool(text)),
        )
    except (ArithmeticError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise TryAgain("the server's answer is no chat completion") from error


def _without_thoughts(text: str) -> str:
    """What a model says after its thoughts, which some servers leave in the text; some templates
    begin the thoughts in the prompt, so that only their end is in the text.
    """
    _, end, said = text.rpartition("</think>")
    return said if end or not text.lstrip().startswith("<think>") else ""


def _message(content: bytes) -> tuple[str, str | None]:
    """The message and the code of an error, as OpenAI's and its relatives' servers write them."""
    try:
        body = json.loads(content)
    except ValueError:
        return "", None
    error = body.get("error", body) if isinstance(body, dict) else {}
    if isinstance(error, str):
        return printable(error)[:300], None
    if not isinstance(error, dict):
        return "", None
    message = error.get("message") or error.get("detail") or ""
    code = error.get("code") or error.get("type")
    return printable(str(message))[:300], None if code is None else str(code)


def retry_after(value: str | None, now: datetime | None = None) -> float:
    """Seconds of a Retry-After header, which holds a number or a date; 0 for anything else."""
    if value is None:
        return 0.0
    try:
        return max(0.0, float(value)) if math.isfinite(float(value)) else 0.0
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    # Without a zone it is meant in UTC, as all dates of HTTP.
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - (now or datetime.now(UTC))).total_seconds())
