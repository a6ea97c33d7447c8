"""Copies of shards on this machine's disk, for all processes together.

A cache never holds more bytes than its cap, unfinished downloads included; the copy that was used
the longest time ago goes first. Copies in use stay. Locks are the kernel's (flock), so that nothing
is left locked by a process that was killed:

    lock               held while room is made
    locks/KEY          shared by those who read a copy, exclusive for who fetches or removes it
    shards/KEY/NAME    a whole copy; KEY is a hash of the file's URL and version
    shards/KEY/.part   a download
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pydantic import ByteSize, TypeAdapter, ValidationError

from vlv.data.remote.store import StoreError, fetch, shown
from vlv.errors import ConfigError, DatasetError
from vlv.files import reserve, sync

PLACE, SIZE = "VLV_SHARD_CACHE", "VLV_SHARD_CACHE_SIZE"
_DEFAULT_SIZE = "50GB"
_PART = ".part"
# Seconds to wait for a copy that others read to be released, and between two looks.
_PATIENCE, _PAUSE = 300.0, 0.05


def shard_cache() -> "ShardCache":
    """The cache that the environment names: `VLV_SHARD_CACHE` is its folder (`vlv/shards` in
    XDG_CACHE_HOME or ~/.cache), `VLV_SHARD_CACHE_SIZE` its cap (50GB).

    Raises:
        ConfigError: the cap is no size.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = os.environ.get(PLACE) or os.path.join(caches, "vlv", "shards")
    text = os.environ.get(SIZE) or _DEFAULT_SIZE
    try:
        cap = TypeAdapter(ByteSize).validate_python(text)
    except ValidationError as error:
        raise ConfigError(f"{SIZE} is a size such as 50GB, not {text!r}") from error
    return ShardCache(Path(folder).expanduser().absolute(), int(cap))


@dataclass(frozen=True)
class ShardCache:
    """A folder of copies, of at most `cap` bytes."""

    folder: Path
    cap: int

    def place_of(self, url: str, name: str, version: str) -> Path:
        """Where the copy of a file is, or would be."""
        key = sha256(f"{url}\0{version}".encode()).hexdigest()[:32]
        return self.folder / "shards" / key / name

    @contextmanager
    def copy_of(self, url: str, name: str, size: int, version: str) -> Iterator[Path]:
        """The copy of a file, fetched if it is not here; it stays while the block runs.

        One process fetches a file, others wait for it. A `DatasetError` of the block that names the
        copy names the file instead.

        Raises:
            DatasetError: it cannot be fetched; it is larger than the cache; or the disk is full.
        """
        copy = self.place_of(url, name, version)
        key = copy.parent.name
        while True:
            whole = copy.is_file()
            with self._lock(key, fcntl.LOCK_SH if whole else fcntl.LOCK_EX) as lock:
                if not whole:
                    if not copy.is_file():
                        self._fetch(url, size, version, copy)
                    fcntl.flock(lock, fcntl.LOCK_SH)
                # Without a lock, or while one became the other, the copy may have gone.
                if not copy.is_file():
                    continue
                os.utime(copy)
                try:
                    yield copy
                except DatasetError as error:
                    raise DatasetError(str(error).replace(str(copy), shown(url))) from error
                return

    def _fetch(self, url: str, size: int, version: str, copy: Path) -> None:
        part = copy.with_name(_PART)
        try:
            self._reserve(url, size, part)
            fetch(url, version, size, part)
            sync(part)
            os.replace(part, copy)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise StoreError(
                    f"the shard cache {self.folder} cannot be written ({error.strerror}); name "
                    f"another folder in {PLACE}"
                ) from error
            raise StoreError(
                f"the disk of the shard cache {self.folder} has no room for {shown(url)} "
                f"({size:,} bytes); free some, lower {SIZE}, or name another folder in {PLACE}"
            ) from None
        finally:
            if not copy.exists():
                self._remove(copy.parent)

    def _reserve(self, url: str, size: int, part: Path) -> None:
        """Take the room of a download on the disk, so that others count it."""
        if size > self.cap:
            raise StoreError(
                f"{shown(url)} has {size:,} bytes, more than the shard cache may hold "
                f"({self.cap:,}); raise {SIZE}"
            )
        deadline = time.monotonic() + _PATIENCE
        while not self._reserved(size, part):
            if time.monotonic() > deadline:
                raise StoreError(
                    f"the shard cache {self.folder} ({self.cap:,} bytes) is full of shards in use; "
                    f"raise {SIZE}"
                )
            time.sleep(_PAUSE)

    def _reserved(self, size: int, part: Path) -> bool:
        with _locked(self.folder / "lock", fcntl.LOCK_EX):
            part.parent.mkdir(parents=True, exist_ok=True)
            part.unlink(missing_ok=True)  # of a killed process
            copies = self._copies()
            used = sum(taken for _, taken, _ in copies)
            copies.sort()
            while used + size > self.cap:
                if (freed := self._evict(copies)) is None:
                    return False
                used -= freed
            while True:
                try:
                    part.touch()
                    reserve(part, size)
                    return True
                except OSError as error:
                    # The cap is only a wish where the disk has less.
                    if error.errno != errno.ENOSPC or self._evict(copies) is None:
                        raise

    def _copies(self) -> list[tuple[float, int, Path]]:
        """(when it was used, bytes, folder) of all copies and downloads."""
        found = []
        for folder in os.scandir(self.folder / "shards"):
            with suppress(FileNotFoundError):  # removed by who had it
                for file in os.scandir(folder):
                    state = file.stat()
                    found.append((state.st_mtime, state.st_size, Path(folder)))
        return found

    def _evict(self, copies: list[tuple[float, int, Path]]) -> int | None:
        """Remove the first of these that nobody uses; its size, or None if all are in use."""
        while copies:
            _, size, folder = copies.pop(0)
            with suppress(BlockingIOError), self._lock(folder.name, fcntl.LOCK_EX | fcntl.LOCK_NB):
                self._remove(folder)
                (self.folder / "locks" / folder.name).unlink(missing_ok=True)
                return size
        return None

    def _remove(self, folder: Path) -> None:
        with suppress(FileNotFoundError):
            for file in list(os.scandir(folder)):
                os.unlink(file)
            folder.rmdir()

    def _lock(self, key: str, kind: int) -> AbstractContextManager[int]:
        return _locked(self.folder / "locks" / key, kind)


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[int]:
    """The descriptor of a file that is locked inside the block.

    Raises:
        BlockingIOError: it is taken, and `kind` says not to wait.
    """
    while True:
        descriptor = _opened(path)
        try:
            fcntl.flock(descriptor, kind)
            # Who held it may have removed it, and others hold a new one.
            if _is_at(descriptor, path):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise StoreError(
            f"the shard cache {path.parent} cannot be written ({error.strerror}); name another "
            f"folder in {PLACE}"
        ) from error


def _is_at(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False
