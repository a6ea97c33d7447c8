"""The members of a tar archive of unknown origin. A damaged member stops no other member.

tarfile reads each header. By itself it would stop at a header that it cannot read, follow chained
headers until its stack is full, and load extended headers of any size; so the end of each member
is found here first. Reads headers only.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vlv.errors import DatasetError
from vlv.text import printable

BLOCK = 512
# Long names and extended headers that may stand before a member, and their bytes together.
_MAX_EXTENSIONS = 16
_MAX_EXTENSION_BYTES = 1_000_000
_EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
# What tarfile raises on hostile headers.
_ODD = (tarfile.TarError, ValueError, IndexError, OverflowError, RecursionError, EOFError)


@dataclass(frozen=True)
class Member:
    """A member: the places where its header begins and where its `size` bytes begin, and what is
    wrong with it, if anything.
    """

    name: str
    offset: int
    start: int
    size: int
    is_folder: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class Gap:
    """A damaged part of an archive, whose samples are lost."""

    offset: int


def read_members(path: Path, start: int = 0, end: int | None = None) -> Iterator[Member | Gap]:
    """The members of an archive and its gaps, in order; for a part, those that begin in it.

    Raises:
        DatasetError: the file cannot be read, is empty, or is compressed.
    """
    try:
        with open(path, "rb") as file:
            yield from _Walk(path, file).members(start, end)
    except OSError as error:
        raise DatasetError(f"the shard {path} cannot be read ({error.strerror})") from error


class _Walk:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._file = file
        self._end = path.stat().st_size
        if not self._end:
            raise DatasetError(f"the shard {path} is damaged: it is empty; fetch or write it again")
        if file.read(6).startswith(_COMPRESSED):
            raise DatasetError(f"the shard {path} is damaged: it is compressed; unpack it")
        file.seek(0)
        # Only mode "w" reads nothing when it is opened. Nothing is written: the file is read-only.
        self._tar = tarfile.TarFile(fileobj=file, mode="w")

    def members(self, place: int, end: int | None) -> Iterator[Member | Gap]:
        in_gap = False
        while place < (self._end if end is None else end):
            header = self._header(place)
            if header is None:
                if not in_gap and self._holds_data(place):
                    in_gap = True
                    yield Gap(place)
                place += BLOCK
                continue
            member, place = self._member(place, header)
            # The bytes after a member that is cut off belong to it.
            in_gap = member.start + member.size > self._end
            yield member

    def _header(self, place: int) -> tarfile.TarInfo | None:
        """The header at a place; None if there is none."""
        self._file.seek(place)
        block = self._file.read(BLOCK)
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except _ODD:
            return None
        return header if header.size >= 0 else None

    def _holds_data(self, place: int) -> bool:
        """Whether a block holds anything but zeros, which may lie between members."""
        self._file.seek(place)
        return bool(self._file.read(BLOCK).strip(b"\0"))

    def _member(self, place: int, header: tarfile.TarInfo) -> tuple[Member, int]:
        """The member that begins at a place, and the place of the next header."""
        last, where, count, extended = header, place, 0, 0
        while last.type in _EXTENSIONS:
            count, extended = count + 1, extended + last.size
            where += BLOCK + _padded(last.size)
            found = self._header(where) if where < self._end else None
            if found is None:
                name = printable(header.name)
                problem = "has headers that lead to no file"
                return Member(name, place, place, 0, problem=problem), where
            last = found
        if count > _MAX_EXTENSIONS or extended > _MAX_EXTENSION_BYTES:
            problem = f"has {count} long headers of {extended} bytes, more than any file needs"
            return self._plain(place, where, last, problem)
        self._file.seek(place)
        try:
            info = self._tar.tarinfo.fromtarfile(self._tar)
        except _ODD as error:
            return self._plain(place, where, last, f"has a header that cannot be read ({error})")
        fault: str | None = None
        if info.size < 0 or info.offset_data + info.size > self._end:
            # Its true end is unknown, so anything after it that looks like a header counts as one.
            problem = f"has {info.size} bytes by its header, more than the file holds"
            return Member(info.name, place, where, info.size, problem=problem), where + BLOCK
        if info.issparse() or not (info.type in tarfile.REGULAR_TYPES or info.isdir()):
            fault = "is not a plain file"
        member = Member(info.name, place, info.offset_data, info.size, info.isdir(), fault)
        return member, max(self._tar.offset, where + BLOCK)

    def _plain(
        self, place: int, where: int, last: tarfile.TarInfo, problem: str
    ) -> tuple[Member, int]:
        """A member by its last header, at `where`, without the headers before it."""
        end = where + BLOCK + (_padded(last.size) if last.isreg() else 0)
        if end > self._end + BLOCK:
            end = where + BLOCK
        return Member(last.name, place, where + BLOCK, last.size, problem=problem), end


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
