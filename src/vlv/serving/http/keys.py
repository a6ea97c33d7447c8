"""API keys with names and quotas, and how much of its quota each has used.

A file of keys has one a line: `KEY`, or `NAME: KEY`, with quotas after it. `sha256:HEX` stands for
a key that the file does not contain. Keys are long and random, so a plain hash hides them.
"""

import hashlib
import hmac
import json
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vlv.errors import ConfigError
from vlv.files import write_text
from vlv.serving.errors import ApiError

_NAMED = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64}):\s+(?P<key>\S+)(?P<quotas>(\s+\S+)*)")
_QUOTA = re.compile(r"(?P<name>requests-per-minute|images-per-day)=(?P<limit>[1-9]\d{0,9})")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_SECONDS_A_DAY = 24 * 60 * 60


@dataclass(frozen=True)
class ApiKey:
    """A key by its SHA-256; its name appears in logs and metrics. No quota means no limit."""

    name: str
    digest: bytes
    requests_per_minute: int | None = None
    images_per_day: int | None = None


def plain_key(name: str, key: str) -> ApiKey:
    """A key without quotas."""
    return ApiKey(name, _digest(key.encode(errors="surrogateescape")))


def parse_keys(lines: Sequence[str], file: Path) -> tuple[ApiKey, ...]:
    """The keys of a file's lines. Empty lines and lines that start with `# ` are none.

    The name of a key without one is that of its place.

    Raises:
        ConfigError: a line is not a key, or two keys are the same or have the same name.
    """
    keys: list[ApiKey] = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("# "):
            continue
        named = _NAMED.fullmatch(line)
        place = f"{file}, line {number},"
        if named is None and len(line.split()) > 1:
            raise ConfigError(
                f"{place} must be a key without spaces, or `NAME: KEY`, which quotas may follow"
            )
        if named is None:
            keys.append(ApiKey(f"line-{number}", _digest_of(line, place)))
        else:
            digest = _digest_of(named["key"], place)
            keys.append(ApiKey(named["name"], digest, *_quotas(named["quotas"], place)))
    names = [one.name for one in keys]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{file} has the name {name} twice; give every key its own")
    first: dict[bytes, ApiKey] = {}
    for key in keys:
        if (other := first.setdefault(key.digest, key)) is not key:
            raise ConfigError(
                f"{file} has the key of {other.name} again as {key.name}, whose quotas would "
                "never count; leave one of them out"
            )
    return tuple(keys)


def _digest_of(key: str, place: str) -> bytes:
    if not key.startswith("sha256:"):
        return plain_key("", key).digest
    match = _HASH.fullmatch(key.lower())
    if match is None:
        raise ConfigError(f"{place} must have 64 hexadecimal digits after sha256:")
    return bytes.fromhex(match[1])


def _quotas(text: str, place: str) -> tuple[int | None, int | None]:
    limits: dict[str, int] = {}
    for word in text.split():
        match = _QUOTA.fullmatch(word)
        if match is None:
            raise ConfigError(
                f"{place} must have requests-per-minute=N or images-per-day=N after the key"
            )
        limits[match["name"]] = int(match["limit"])
    return limits.get("requests-per-minute"), limits.get("images-per-day")


def find_key(keys: Sequence[ApiKey], given: bytes) -> ApiKey | None:
    """The key that was given. All are compared, so that the time reveals nothing."""
    digest = _digest(given)
    matches = [hmac.compare_digest(digest, one.digest) for one in keys]
    return next((key for key, matched in zip(keys, matches, strict=True) if matched), None)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class Quotas:
    """Counts the requests and images of keys, and refuses what is beyond a quota.

    A minute's requests are refilled evenly. A day starts at midnight UTC. With a file, the images
    of the day survive a restart: `save` writes them if they changed.

    now: seconds since 1970.
    """

    def __init__(self, file: Path | None = None, now: Callable[[], float] = time.time) -> None:
        self._file = file
        self._now = now
        self._left: dict[str, tuple[float, float]] = {}  # requests left, and when
        self._day = self._today()
        self._images: dict[str, int] = self._saved()
        self._changed = False

    def take_request(self, key: ApiKey) -> None:
        """Count a request.

        Raises:
            ApiError: 429, the key has used its requests of this minute.
        """
        limit = key.requests_per_minute
        if limit is None:
            return
        now, rate = self._now(), limit / 60
        left, since = self._left.get(key.name, (float(limit), now))
        left = min(float(limit), left + rate * max(0.0, now - since))
        self._left[key.name] = (left, now)
        if left < 1:
            raise ApiError(
                429,
                "rate_limit_exceeded",
                f"This key may send {limit} requests a minute; try again later.",
                retry_seconds=math.ceil((1 - left) / rate),
            )
        self._left[key.name] = (left - 1, now)

    def take_images(self, key: ApiKey, count: int) -> None:
        """Count the images of a request, all or none.

        Raises:
            ApiError: 429, the key has fewer left of this day.
        """
        if self._day != self._today():
            self._day, self._images = self._today(), {}
        used = self._images.get(key.name, 0)
        limit = key.images_per_day
        if limit is not None and used + count > limit:
            raise ApiError(
                429,
                "quota_exceeded",
                f"This key may send {limit} images a day, of which {max(0, limit - used)} are "
                f"left, and this request has {count}; the next day starts at midnight UTC.",
                retry_seconds=math.ceil(_SECONDS_A_DAY - self._now() % _SECONDS_A_DAY),
            )
        self._images[key.name] = used + count
        self._changed = True

    def save(self) -> None:
        """Write the images of the day if they changed since the last time."""
        if self._file is not None and self._changed:
            content = {"day": self._day, "images": self._images}
            write_text(self._file, json.dumps(content) + "\n")
            self._changed = False  # only now: what could not be written is tried again

    def _saved(self) -> dict[str, int]:
        """The images of this day before the restart.

        Raises:
            ConfigError: the file is not one that `save` wrote, or cannot be written.
        """
        if self._file is None:
            return {}
        if not os.access(self._file.absolute().parent, os.W_OK):
            raise ConfigError(
                f"--quota-file {self._file} cannot be written; name a file in a folder that exists "
                "and can be written to"
            )
        if not self._file.exists():
            return {}
        try:
            saved = json.loads(self._file.read_text())
            images = {str(name): int(count) for name, count in saved["images"].items()}
            return images if saved["day"] == self._day else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{self._file} does not hold used quotas; remove it, or name another --quota-file"
            ) from error

    def _today(self) -> str:
        return datetime.fromtimestamp(self._now(), UTC).date().isoformat()
