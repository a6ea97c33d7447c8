"""What this program last wrote where, so that a caption that somebody changed is told from its own.

One hidden file `.vlv-captions` in each folder that holds captions, a line of JSON for each caption:
`{"name": "a.txt", "sha256": "..."}`. Any number of processes add to it at once; `compact` drops the
lines that later ones replace. Where it, or a line of it, is missing or damaged, a caption counts as
somebody's own. Knows text and file names only.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from filelock import FileLock

from vlv.data.samples import caption_lines, lines_with_text
from vlv.files import atomic_file

RECORD = ".vlv-captions"
# Hexadecimal digits of a hash that are kept: enough to tell texts apart that nobody forges.
_DIGITS = 32
# There is none, or its name is too long for one.
_NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


class Replace(Enum):
    """Which captions that are there already may be replaced by new ones."""

    NONE = "none"
    OURS = "ours"
    """Those that are as this program wrote them: what `--overwrite` means."""
    ALL = "all"
    """Those that somebody wrote or changed, too: `--overwrite-edited`."""


class Written:
    """The record of one folder. Any number of processes may have one of the same folder.

    A caption goes by a name within the folder: that of its file (`a.txt`), or, in a file of many
    captions, that file's and the image's (`metadata.jsonl/a.png`).
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / RECORD
        # Name -> the last two texts: a run may be cut off between its note and the caption.
        self._hashes: dict[str, tuple[str, ...]] = {}
        # Bytes and lines that were read, and the last line: where another one lies by now, the file
        # was compacted.
        self._read = self._lines = 0
        self._last = b""

    def is_ours(self, name: str, text: str) -> bool:
        """Whether the caption `text` is what this program wrote last under `name`; line ends, marks
        and blank ends of lines do not count.
        """
        self._catch_up()
        return _hash(text) in self._hashes.get(name, ())

    def note(self, captions: Iterable[tuple[str, str]]) -> None:
        """Remember (name, text) of captions, before they are written.

        Raises:
            OSError: the disk is full, or the folder cannot be written to.
        """
        hashes = {name: _hash(text) for name, text in captions}
        # The file is not read for this alone: it may be long.
        if self._read:
            self._catch_up()
            known = self._hashes
            hashes = {
                name: one for name, one in hashes.items() if known.get(name, ())[-1:] != (one,)
            }
        if not hashes:
            return
        with one_at_a_time(self._path):
            self._append(b"".join(_line(name, value) for name, value in hashes.items()))

    def count_lines(self) -> int:
        """How many lines the file has; holds none of them in memory."""
        try:
            with open(self._path, "rb") as file:
                return sum(1 for _ in file)
        except OSError:
            return 0

    def compact(self) -> None:
        """Drop lines that say nothing any longer, if there are any.

        Raises:
            OSError: the disk is full, or the folder cannot be written to.
        """
        self._catch_up()
        if not self._is_loose():
            return
        with one_at_a_time(self._path):
            self._catch_up()
            if not self._is_loose():
                return
            with atomic_file(self._path) as unfinished, open(unfinished, "wb") as file:
                for name, values in self._hashes.items():
                    file.writelines(_line(name, value) for value in values)

    def _is_loose(self) -> bool:
        return self._lines > sum(map(len, self._hashes.values())) > 0

    def _append(self, lines: bytes) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            # What a full disk left of a line would spoil the next one.
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            data = (b"\n" if torn else b"") + lines
            if os.write(descriptor, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        finally:
            os.close(descriptor)

    def _catch_up(self) -> None:
        """Read what was added since, or all of it where it was compacted."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._read - len(self._last))
                if file.read(len(self._last)) != self._last:
                    self._forget()
                    file.seek(0)
                added = file.read()
        except OSError:  # there is none: nothing here is known to be ours
            self._forget()
            return
        whole = added[: added.rfind(b"\n") + 1]
        lines = whole.splitlines(keepends=True)
        self._read += len(whole)
        self._lines += len(lines)
        self._last = lines[-1] if lines else self._last
        for line in lines:
            name, value = _parsed(line)
            if name and value not in self._hashes.get(name, ())[-1:]:
                self._hashes[name] = (*self._hashes.get(name, ())[-1:], value)

    def _forget(self) -> None:
        self._hashes, self._read, self._lines, self._last = {}, 0, 0, b""


class FolderRecords:
    """The records of all folders that captions are written to, opened as they are needed."""

    def __init__(self) -> None:
        self._records: dict[Path, Written] = {}

    def of(self, folder: Path) -> Written:
        """The record of one folder."""
        if folder not in self._records:
            self._records[folder] = Written(folder)
        return self._records[folder]

    def compact(self) -> None:
        """`Written.compact` of each."""
        for record in self._records.values():
            record.compact()


def may_replace(path: Path, replace: Replace, record: Written) -> bool:
    """Whether a new caption may be written to the caption file `path`, as it is now: there is none,
    or it holds no text, or `replace` allows it. Ask again right before writing.
    """
    text = text_of(path)
    if text == "" or replace is Replace.ALL:
        return True
    return replace is Replace.OURS and text is not None and record.is_ours(path.name, text)


def text_of(path: Path) -> str | None:
    """The captions in a file, a line each; empty where there is no file or nothing in it that could
    be seen, None where something is there that cannot be read as text.
    """
    try:
        if not path.is_file():  # opening a pipe would wait for a writer
            return None if path.exists() and not path.is_dir() else ""
        data = path.read_bytes()
    except OSError as error:
        # A disk that fails for the moment may hold a caption.
        return "" if error.errno in _NO_SUCH_FILE else None
    try:
        return "\n".join(caption_lines(data))
    except ValueError:
        return None


FileState = tuple[int, int, int]
"""Inode, bytes, and nanoseconds of the last change: another state means that a file was written."""


class ChangedMeanwhileError(Exception):
    """Somebody has written a file since it was read; it is then read again, never replaced."""


def state_of(path: Path) -> FileState | None:
    """The state of a file; None if there is none."""
    try:
        return as_state(os.stat(path))
    except FileNotFoundError:
        return None


def as_state(found: os.stat_result) -> FileState:
    """The state of a file in what the system reports of it."""
    return found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def one_at_a_time(path: Path, *, timeout: float = -1) -> Iterator[None]:
    """A block that one process at a time is in, of those that write `path`. A process that dies
    leaves it; afterwards nothing lies beside `path`.

    Raises:
        filelock.Timeout: another process was in it for more than `timeout` seconds, if that is not
            negative.
    """
    lock = FileLock(path.with_name(f".{path.name[:80]}.lock"), timeout=timeout)
    with lock:
        try:
            yield
        finally:
            # Before it is released: whoever waits for it makes it anew.
            Path(lock.lock_file).unlink(missing_ok=True)


def _hash(text: str) -> str:
    data = "\n".join(lines_with_text(text)).encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


def _line(name: str, value: str) -> bytes:
    return json.dumps({"name": name, "sha256": value}).encode("ascii") + b"\n"


def _parsed(line: bytes) -> tuple[str, str]:
    try:
        record = json.loads(line)
        return str(record["name"]), str(record["sha256"])
    except (ValueError, KeyError, TypeError):
        return "", ""
