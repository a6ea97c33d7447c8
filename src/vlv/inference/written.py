"""A record of the captions that this program wrote, so that captions edited by hand are recognized.

Each folder with captions has a hidden file `.vlv-captions` with a line of JSON for each caption:
`{"name": "a.txt", "sha256": "..."}`. Any number of processes may add lines at once; `compact` drops
lines that later ones replace. If the file or a line is missing or damaged, the caption counts as
edited by hand.
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
# Hexadecimal digits of a hash that are kept: enough for texts that nobody forges.
_DIGITS = 32
# There is no such file, or its name is too long for one.
_NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


class Replace(Enum):
    """Which existing captions may be replaced."""

    NONE = "none"
    OURS = "ours"
    """Captions that are as this program wrote them: `--overwrite`."""
    ALL = "all"
    """Also captions that were written or edited by hand: `--overwrite-edited`."""


class Written:
    """The record of one folder. Any number of processes may use the same folder's record.

    A caption has a name within the folder: that of its file (`a.txt`) or, in a file of many
    captions, the names of that file and of the image (`metadata.jsonl/a.png`).
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / RECORD
        # Name -> hashes of the last two texts: a run may stop between its note and the caption.
        self._hashes: dict[str, tuple[str, ...]] = {}
        # Bytes and lines that were read, and the last line. If another line is there now, the file
        # was compacted.
        self._read = self._lines = 0
        self._last = b""

    def is_ours(self, name: str, text: str) -> bool:
        """Whether this program last wrote the caption `text` under `name`. Line ends, byte order
        marks and blanks at the ends of lines are ignored.
        """
        self._catch_up()
        return _hash(text) in self._hashes.get(name, ())

    def note(self, captions: Iterable[tuple[str, str]]) -> None:
        """Record (name, text) of captions, before they are written.

        Raises:
            OSError: the disk is full, or the folder cannot be written to.
        """
        hashes = {name: _hash(text) for name, text in captions}
        # The file may be long, so it is not read only for this.
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
        """The number of lines in the file, counted without holding them in memory."""
        try:
            with open(self._path, "rb") as file:
                return sum(1 for _ in file)
        except OSError:
            return 0

    def compact(self) -> None:
        """Drop lines that later ones replace, if there are any.

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
            # The rest of a line that a full disk cut off would spoil the next line.
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            data = (b"\n" if torn else b"") + lines
            if os.write(descriptor, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        finally:
            os.close(descriptor)

    def _catch_up(self) -> None:
        """Read what was added since, or everything if the file was compacted."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._read - len(self._last))
                if file.read(len(self._last)) != self._last:
                    self._forget()
                    file.seek(0)
                # Line by line: there may be millions.
                for line in file:
                    if not line.endswith(b"\n"):  # it is being written
                        break
                    self._add(line)
        except OSError:  # there is no file: no caption is known to be ours
            self._forget()

    def _add(self, line: bytes) -> None:
        self._read += len(line)
        self._lines += 1
        self._last = line
        name, value = _parsed(line)
        if name and value not in self._hashes.get(name, ())[-1:]:
            self._hashes[name] = (*self._hashes.get(name, ())[-1:], value)

    def _forget(self) -> None:
        self._hashes, self._read, self._lines, self._last = {}, 0, 0, b""


class FolderRecords:
    """The records of all folders with captions, opened when they are needed."""

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
    """Whether a new caption may be written to the caption file `path`: it does not exist, holds no
    text, or `replace` allows it. Ask again right before writing.
    """
    text = text_of(path)
    if text == "" or replace is Replace.ALL:
        return True
    return replace is Replace.OURS and text is not None and record.is_ours(path.name, text)


def text_of(path: Path) -> str | None:
    """The captions in a file, one per line. Empty if there is no file, or no visible text in it;
    None if it cannot be read as text.
    """
    try:
        if not path.is_file():  # opening a pipe would wait for a writer
            return None if path.exists() and not path.is_dir() else ""
        data = path.read_bytes()
    except OSError as error:
        # After another error the file may hold a caption.
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
    """Only one process at a time runs the block, of those that write `path`. The lock of a process
    that dies is released, and no lock file stays.

    Raises:
        filelock.Timeout: another process held the lock for `timeout` seconds; negative: wait
            without end.
    """
    lock = FileLock(path.with_name(f".{path.name[:80]}.lock"), timeout=timeout)
    with lock:
        try:
            yield
        finally:
            # Before the release: a process that waits creates the file again.
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
