"""What tells whether a file of a job's source has changed since it was captioned.

Size and time are asked for in every run, and are cheap. Copying a folder changes its times, so the
content decides where only they differ: its hash is kept when the file is captioned.
"""

import os
from functools import lru_cache
from pathlib import Path

from vlv.files import sha256_of


def seen(path: str | os.PathLike[str]) -> list[int] | None:
    """Size and time of a file, which change with it; None if there is no file."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]


def hash_as_seen(path: str | os.PathLike[str], before: list[int]) -> str:
    """The SHA-256 of a file that has been read since `seen` was `before`; empty, which is no hash,
    where it has changed meanwhile.
    """
    try:
        found = _hash(os.fspath(path), *before)
    except OSError:
        return ""
    return found if seen(path) == before else ""


def is_as_seen(path: str | os.PathLike[str], before: list[int], sha256: str | None) -> bool:
    """Whether a file still has the content that it had when `seen` was `before`. Its hash is asked
    for only where the time is another and the size is not: copying changes times. None is not
    known.
    """
    now = seen(path)
    if now == before or now is None:
        return now == before
    if now[0] != before[0] or sha256 is None:
        return now[0] == before[0]
    try:
        return _hash(os.fspath(path), *now) == sha256
    except OSError:
        return True  # what cannot be read now is no reason to caption it again


@lru_cache(maxsize=4)
def _hash(path: str, size: int, time: int) -> str:
    """Of a file with this state; the parts of a table have one."""
    return sha256_of(Path(path))
