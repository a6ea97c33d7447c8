"""The hidden names of what is written, and the removal of what killed processes left under them.

A name is `.MACHINE-TOKEN-TARGET.tmp` beside its target, so that no two writers have the same one:
neither two containers whose processes have equal numbers, nor two machines that share a disk. What
was there before is `.old` meanwhile. Knows nothing of what is written.
"""

import fcntl
import os
import platform
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

# The second form has the number of the process, as older versions wrote it.
_NAME = re.compile(r"\.(?:([0-9a-f]{8})-[0-9a-f]{8}|\d+)-[0-9a-f]{8}\.(?:tmp|old)")
# Nothing is written for so long without a change: what is older was left by a killed process.
_LONGEST = 24 * 3600.0


def hidden_name(path: Path) -> Path:
    """A name in the same folder that nobody else has, short enough for any name of `path`."""
    return path.with_name(f".{_machine()}-{secrets.token_hex(4)}-{_target(path)}.tmp")


@contextmanager
def hidden_folder(path: Path) -> Iterator[Path]:
    """A new folder with a `hidden_name` of `path`. As long as the process lives, no other one
    removes it; when the block ends it is gone, unless it got another name.
    """
    hidden = hidden_name(path)
    new = hidden.with_suffix(".new")
    new.mkdir()
    lock = os.open(new, os.O_RDONLY)
    try:
        with suppress(OSError):  # of a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        # Others look at it only now that it is locked.
        yield new.rename(hidden)
    finally:
        remove(hidden)
        os.close(lock)


def remove_left_of(path: Path) -> None:
    """Remove what killed processes left beside `path` when they wrote it. What they were replacing
    becomes `path` again, if there is none.
    """
    found = path.parent.glob(f".*-{_target(path)}.*")
    for left in {one.with_suffix(".tmp") for one in found if _NAME.fullmatch(one.name)}:
        with suppress(PermissionError):  # of another user
            if not _may_be_written(left):
                _put_back(left.with_suffix(".old"), path)
                remove(left)


def _put_back(replaced: Path, path: Path) -> None:
    if replaced.exists() and not path.exists():
        with suppress(FileNotFoundError):  # another process did it
            replaced.rename(path)
    remove(replaced)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left in a folder of `atomic_file` and `atomic_folder`; no other
    process may be writing there.
    """
    for path in folder.glob(".*.tmp"):
        if _NAME.fullmatch(path.name):
            remove(path)


def remove(path: Path) -> None:
    """Remove a folder, a file or a link; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _may_be_written(path: Path) -> bool:
    """Whether a process may be alive that writes there. Locks tell it of the folders of this
    machine, and age of all else.
    """
    name = _NAME.fullmatch(path.name)
    try:
        if name and name[1] == _machine() and path.is_dir():
            lock = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return False
            except BlockingIOError:
                return True
            except OSError:  # of a file system without locks
                pass
            finally:
                os.close(lock)
        return time.time() - path.lstat().st_mtime < _LONGEST
    except FileNotFoundError:
        return False


def _target(path: Path) -> str:
    return f"{zlib.crc32(os.fsencode(path.name)):08x}"


@cache
def _machine() -> str:
    """The system that holds the locks of this process, in 8 digits. Containers of one machine have
    several host names and one system.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")
    name = boot.read_text("ascii") if boot.is_file() else platform.node()
    return f"{zlib.crc32(name.encode()):08x}"
