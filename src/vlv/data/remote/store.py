"""Asks object stores, by fsspec: with retries, and with messages that hold no key.

Credentials come from the usual places of fsspec's libraries alone: environment variables, their
config files and the machine's role. `VLV_REMOTE_PATIENCE` is the number of seconds for which a
store that does not answer is asked again.
"""

import errno
import logging
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from vlv.errors import ConfigError, DatasetError
from vlv.text import printable


class StoreError(DatasetError):
    """A store, or the cache of its files, that does not give a file which may be good."""


logger = logging.getLogger(__name__)

Result = TypeVar("Result")

PATIENCE = "VLV_REMOTE_PATIENCE"
_SECONDS = 300.0
_LONGEST_WAIT = 30.0
# Bytes of one request: a connection that is cut costs no more.
_BLOCK = 16_000_000
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}
_PACKAGES |= {"http": "aiohttp", "https": "aiohttp", "az": "adlfs", "abfs": "adlfs"}
# HTTP's "timeout", "too early" and "too many requests"; all others below 500 say the same again.
_PASSING = (408, 425, 429)
_DENIED = (401, 403)
_GONE = (404, 410)
_VERSIONS = (
    *("ETag", "etag", "md5Hash", "content_md5", "blob_id", "generation"),
    *("mtime", "created", "LastModified", "last_modified", "updated"),
)
# Of this machine's disk, not of the store.
_FULL = (errno.ENOSPC, errno.EDQUOT)


def scheme_of(url: str) -> str:
    """The part before `://`, in lower case."""
    return url.partition("://")[0].lower()


def shown(url: str) -> str:
    """A URL, or a local path, for a message: without user and query, where keys may be."""
    if "://" not in url:
        return printable(url)
    scheme, _, rest = url.partition("://")
    if scheme.lower() in ("http", "https"):
        rest = rest.partition("?")[0].partition("#")[0]
    place, slash, path = rest.partition("/")
    return printable(f"{scheme}://{place.rpartition('@')[2]}{slash}{path}")


def filesystem(url: str) -> tuple[Any, str]:
    """The file system of a URL, and its path there. It belongs to this process: after a fork, ask
    for another.

    Raises:
        ConfigError: what reads the store is not installed, or is set up in a wrong way.
    """
    from fsspec.core import url_to_fs

    scheme = scheme_of(url)
    try:
        found: tuple[Any, str] = url_to_fs(url, **_options(scheme, url))
        return found
    except ImportError as error:
        package = _PACKAGES.get(scheme, "a library")
        where = "vlv[remote]" if package in ("s3fs", "aiohttp") else package
        raise ConfigError(
            f"{scheme}:// needs {package}, which is not installed; install it with: "
            f"pip install '{where}'"
        ) from error
    except Exception as error:
        raise ConfigError(
            f"the store of {shown(url)} cannot be opened ({_reason(error)}); check the settings of "
            "its library"
        ) from None


def _options(scheme: str, url: str) -> dict[str, Any]:
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme in ("http", "https"):
        from aiohttp import ClientTimeout

        # A large shard may take long, a silent server may not.
        timeout = ClientTimeout(total=None, sock_connect=15, sock_read=30)
        # A signature does not survive another encoding.
        options |= {"client_kwargs": {"timeout": timeout}, "encoded": "%" in url}
    return options


def version_of(about: dict[str, Any]) -> str:
    """A hash of what changes with a file's content, from what the store says about it."""
    parts = [str(about.get("size")), *(f"{n}={about[n]}" for n in _VERSIONS if about.get(n))]
    # ETags of one content differ in their quotes between a list and an answer.
    return sha256("\0".join(parts).replace('"', "").encode()).hexdigest()[:16]


def fetch(url: str, version: str, size: int, into: Path) -> None:
    """Write a file into `into`, which has its size already.

    Raises:
        DatasetError: the store does not give it, or it has changed since its version was read.
    """
    system, path = filesystem(url)
    about = attempt(url, lambda: system.info(path))
    _check_same(url, version, about)
    if scheme_of(url) in ("http", "https") and not about.get("partial"):
        # This server gives files as a whole.
        attempt(url, lambda: _whole(system, path, size, into))
        return
    with open(into, "r+b") as file:
        for start in range(0, size, _BLOCK):
            end = min(start + _BLOCK, size)
            file.write(attempt(url, lambda: _block(system, path, start, end)))  # noqa: B023
    _check_same(url, version, attempt(url, lambda: system.info(path)))


def _whole(system: Any, path: str, size: int, into: Path) -> None:
    count = 0
    with system.open(path, "rb", block_size=0) as answer, open(into, "r+b") as file:
        while data := answer.read(min(_BLOCK, size - count + 1)):
            count += file.write(data)
            if count > size:
                break
    if count != size:
        raise ConnectionError(f"{count} of {size} bytes")


def _block(system: Any, path: str, start: int, end: int) -> bytes:
    data: bytes = system.cat_file(path, start=start, end=end)
    if len(data) != end - start:
        raise ConnectionError(f"{len(data)} of {end - start} bytes")
    return data


def _check_same(url: str, version: str, about: dict[str, Any]) -> None:
    if version_of(about) != version:
        raise StoreError(
            f"{shown(url)} has changed since the set was opened; start the command again"
        )


def content_if_there(url: str) -> bytes | None:
    """The content of a small file; None if there is none of this name, which some stores call
    denied.

    Raises:
        DatasetError: the store gives no answer.
    """
    system, path = filesystem(url)

    def ask() -> bytes | None:
        try:
            data: bytes = system.cat_file(path)
            return data
        except (FileNotFoundError, PermissionError) as error:
            # fsspec says that a file is not there whatever is wrong with a web server.
            if _passes(error):
                raise
            return None

    return attempt(url, ask)


def attempt(url: str, ask: Callable[[], Result]) -> Result:
    """The answer of a store; one that fails in passing is asked again, later and later.

    Raises:
        DatasetError: it gives no answer, or says that there is nothing, or that it may not be read.
    """
    import tenacity

    def report(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        wait = state.next_action.sleep if state.next_action else 0.0
        logger.warning("%s: %s; trying again in %.1f s", shown(url), _reason(error), wait)

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_delay(_patience()),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=_LONGEST_WAIT),
        retry=tenacity.retry_if_exception(_passes),
        before_sleep=report,
        reraise=True,
    )
    try:
        return retrying(ask)
    except Exception as error:
        if _is_full(error):
            raise
        raise _given_up(url, error, retrying) from None


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _FULL


def _given_up(url: str, error: Exception, retrying: Any) -> StoreError:
    tries = retrying.statistics.get("attempt_number", 1)
    after = f", {tries} times" if tries > 1 else ""
    return StoreError(f"{shown(url)} cannot be read ({_reason(error)}{after}); {_advice(error)}")


def _passes(error: BaseException) -> bool:
    """Whether the same question may have another answer later."""
    error = _true(error) or error
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | ImportError):
        return False
    if _no_credentials(error) or _is_full(error) or _is_offline(error):
        return False
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _PASSING
    return isinstance(error, Exception)


def _true(error: BaseException | None) -> BaseException | None:
    """The cause where there is one: of every failure of a web server, fsspec says that the file is
    not there.
    """
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return error.__cause__
    return error


def _status(error: BaseException | None) -> int | None:
    """The HTTP status in an error of aiohttp, botocore, gcsfs or the Hub, if there is one."""
    answer = getattr(error, "response", None)
    found = getattr(error, "status", None) or getattr(answer, "status_code", None)
    if isinstance(answer, dict):
        found = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return found if isinstance(found, int) else None


def _no_credentials(error: BaseException | None) -> bool:
    name = type(error).__name__
    return "Credential" in name or name in ("ProfileNotFound", "NoAuthTokenError")


def _is_offline(error: BaseException | None) -> bool:
    """Whether the Hub's library is set to ask nobody."""
    return type(error).__name__ == "OfflineModeIsEnabled"


def _reason(error: BaseException | None) -> str:
    """Why, without the library's own text: it may repeat a URL with its key."""
    error = _true(error)
    if _no_credentials(error):
        return "no credentials were found"
    if _is_offline(error):
        return "HF_HUB_OFFLINE is set"
    status = _status(error)
    if isinstance(error, PermissionError) or status in _DENIED:
        return "access is denied"
    if isinstance(error, FileNotFoundError) or status in _GONE:
        return "it is not there"
    return type(error).__name__ + (f", status {status}" if status else "")


def _advice(error: BaseException | None) -> str:
    error = _true(error)
    if _no_credentials(error):
        return (
            "give them where the store's library looks, such as its environment variables; a "
            "public bucket of S3 is read without any with FSSPEC_S3_ANON=true"
        )
    if _is_offline(error):
        return "unset it to read from the Hub"
    if isinstance(error, PermissionError) or _status(error) in _DENIED:
        return "check the credentials, and what they allow"
    if isinstance(error, FileNotFoundError) or _status(error) in _GONE:
        return "check its bucket and its name"
    return "check the address and the network, then start the command again"


def _patience() -> float:
    text = os.environ.get(PATIENCE, str(_SECONDS))
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"{PATIENCE} is a number of seconds, not {text!r}") from error
