"""What a set's name stands for: local paths and URLs of object stores, with patterns.

A name may hold braces (`{00000..00199}.tar`, as in shells and webdataset) and `*`. A URL of fsspec
(`s3://`, `gs://`, `hf://`, `https://`, ...) may also be a `Path`, in which two slashes became one.
No message holds a URL's query or user, where keys may be.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from glob import glob, has_magic
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from braceexpand import braceexpand

from vlv.data.remote.cache import shard_cache
from vlv.data.remote.store import attempt, filesystem, scheme_of, shown, version_of
from vlv.errors import ConfigError, DatasetError

SCHEMES = ("s3", "gs", "gcs", "hf", "http", "https", "az", "abfs", "memory", "file")
_URL = re.compile(rf"({'|'.join(SCHEMES)}):/+(?=[^/])", re.IGNORECASE)
# Questions to a store at one time.
_THREADS = 16

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class RemoteFile:
    """A file of an object store as it was when the set was opened.

    version: a hash of its size, and of its ETag or time; another content has another one.
    """

    url: str = field(repr=False)
    size: int
    version: str

    def __str__(self) -> str:
        return shown(self.url)

    @property
    def name(self) -> str:
        """Its last part, without a query."""
        return _name_in(self.url)

    @property
    def suffix(self) -> str:
        """The extension, with its dot."""
        return PurePosixPath(self.name).suffix

    def on_disk(self) -> AbstractContextManager[Path]:
        """Its copy in the shard cache, which nothing removes inside the block.

        Raises:
            DatasetError: it cannot be fetched, or there is no room for it.
        """
        return shard_cache().copy_of(self.url, self.name, self.size, self.version)

    def is_on_disk(self) -> bool:
        """Whether the shard cache has a copy at this moment."""
        return shard_cache().place_of(self.url, self.name, self.version).is_file()


SetFile = Path | RemoteFile
"""A shard or a table."""


def on_disk(file: SetFile) -> AbstractContextManager[Path]:
    """A path to read a file at, inside the block; it stays the same for a file on disk."""
    return nullcontext(file) if isinstance(file, Path) else file.on_disk()


def set_file(address: str) -> SetFile:
    """The file of an address that `address_of` gave. Raises DatasetError where it is gone."""
    return expanded(address, ())[0] if url_of(address) else Path(address)


def asked_of_each(
    ask: Callable[[In], Out], items: Iterable[In], *, in_store: bool
) -> Iterator[Out]:
    """`ask` of each item, in order. Of items that lie in a store, several are asked for at once: it
    answers one question in tens of milliseconds, and there may be thousands of them.
    """
    if not in_store:
        yield from map(ask, items)
        return
    with ThreadPoolExecutor(_THREADS) as threads:
        yield from threads.map(ask, items)


def url_of(name: str | os.PathLike[str]) -> str | None:
    """The URL that a name is; None for a local path.

    Raises:
        ConfigError: it holds a user or a key where the store takes none from a URL.
    """
    text = os.fspath(name)
    match = _URL.match(text)
    if match is None or os.path.lexists(text):
        return None
    scheme = match[1].lower()
    url = f"{scheme}://{text[match.end() :]}"
    if scheme in ("s3", "gs", "gcs") and "@" in urlsplit(url).netloc:
        raise ConfigError(
            f"{shown(url)} holds a user or a key in its address; leave it out: credentials come "
            "from the usual places of the store's library, such as its environment variables"
        )
    return None if scheme == "file" else url


def local_path(name: str | os.PathLike[str]) -> Path:
    """The path that a name without a store is; `file:///a` is `/a`."""
    text = os.fspath(name)
    match = _URL.match(text)
    if match is None or match[1].lower() != "file" or os.path.lexists(text):
        return Path(name)
    return Path("/", unquote(text[match.end() :]))


def is_pattern(name: str | os.PathLike[str]) -> bool:
    """Whether a name stands for several files; a file whose name looks like it is itself."""
    text = os.fspath(name)
    return not os.path.lexists(text) and ("{" in text or has_magic(_without_query(text)))


def expanded(name: str | os.PathLike[str], suffixes: tuple[str, ...]) -> list[SetFile]:
    """The files that a name stands for, each once: those of a pattern in its order, those of a
    folder that have one of `suffixes`, or the file itself.

    Raises:
        ConfigError: what reads the store is not installed.
        DatasetError: there are none, one of them is missing, or the store does not answer.
    """
    url = url_of(name)
    if url is None:
        found: list[SetFile] = list(_local(local_path(name), suffixes))
    else:
        found = list(_remote(url, suffixes))
    if not found:
        raise DatasetError(f"{shown_name(name)} holds no {' or '.join(suffixes)} files")
    return list(dict.fromkeys(found))


def suffix_of(name: str | os.PathLike[str]) -> str:
    """The extension that a set's name ends in, with its dot."""
    return PurePosixPath(_without_query(os.fspath(name))).suffix


def shown_name(name: str | os.PathLike[str]) -> str:
    """A set's name for a message, without keys."""
    return shown(url_of(name) or os.fspath(name))


def address_of(file: SetFile) -> str:
    """The name of a file by which it is found again; for no message."""
    return str(file) if isinstance(file, Path) else file.url


def anywhere(name: str | os.PathLike[str]) -> str:
    """A set's name for a process that may start in any folder: a URL, or an absolute path."""
    return url_of(name) or str(local_path(name).absolute())


def _braces(text: str) -> list[str]:
    try:
        return list(braceexpand(text, escape=False))
    except ValueError as error:
        raise DatasetError(f"the braces of {shown(text)} do not fit together") from error


def _local(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if path.is_dir():
        return sorted(one for one in path.iterdir() if _is_shard(one, suffixes))
    found: list[str] = []
    for one in [str(path)] if path.exists() else _braces(str(path)):
        found += sorted(glob(one)) if has_magic(one) and not os.path.lexists(one) else [one]
    for one in found:
        if not os.path.isfile(one):
            raise DatasetError(f"there is no file {one}")
    return [Path(one) for one in found]


def _is_shard(file: SetFile, suffixes: tuple[str, ...]) -> bool:
    """Whether a file of a folder counts; the ._ files of macOS, for one, do not."""
    return file.suffix in suffixes and not file.name.startswith(".")


def _remote(url: str, suffixes: tuple[str, ...]) -> list[RemoteFile]:
    urls = _braces(url)
    system, _ = filesystem(url)

    def files(one: str) -> list[RemoteFile]:
        if has_magic(_without_query(one)):
            entries = attempt(one, lambda: system.glob(system._strip_protocol(one), detail=True))
            return _sorted(system, entries.values())
        path = system._strip_protocol(one)
        about = attempt(one, lambda: system.info(path))
        if about["type"] == "directory":
            listed = attempt(one, lambda: system.ls(path, detail=True))
            return [file for file in _sorted(system, listed) if _is_shard(file, suffixes)]
        return [_file(one, about)]

    return [file for found in asked_of_each(files, urls, in_store=True) for file in found]


def _sorted(system: Any, entries: Any) -> list[RemoteFile]:
    found = (
        _file(system.unstrip_protocol(one["name"]), one) for one in entries if one["type"] == "file"
    )
    return sorted(found, key=lambda file: file.url)


def _file(url: str, about: dict[str, Any]) -> RemoteFile:
    size = about.get("size")
    if size is None:
        raise DatasetError(
            f"the server does not say how large {shown(url)} is, which the shard cache needs; "
            "fetch the file and name its path"
        )
    return RemoteFile(url, int(size), version_of(about))


def _name_in(url: str) -> str:
    path = urlsplit(url).path if scheme_of(url) in ("http", "https") else url
    name = PurePosixPath(path).name
    return name if name not in ("", "..") else "shard"


def _without_query(text: str) -> str:
    return text.partition("?")[0] if re.match(r"https?:/", text, re.IGNORECASE) else text
