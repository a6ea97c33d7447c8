"""The hidden names of what is written, and the removal of what killed processes left under them.

A name is `.MACHINE-TOKEN-TARGET.tmp` beside its target, so that no two writers have the same one:
neither two containers whose processes have equal numbers, nor two machines that share a disk.
Knows nothing of what is written.
"""

import os
import platform
import re
import secrets
import shutil
import zlib
from functools import cache
from pathlib import Path

# The second form has the number of the process, as older versions wrote it.
_NAME = re.compile(r"\.(?:([0-9a-f]{8})-[0-9a-f]{8}|\d+)-[0-9a-f]{8}\.tmp")


def hidden_name(path: Path) -> Path:
    """A name in the same folder that nobody else has, short enough for any name of `path`."""
    return path.with_name(f".{_machine()}-{secrets.token_hex(4)}-{_target(path)}.tmp")


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


def _target(path: Path) -> str:
    return f"{zlib.crc32(os.fsencode(path.name)):08x}"


@cache
def _machine() -> str:
    """This machine, in 8 digits."""
    return f"{zlib.crc32(platform.node().encode()):08x}"
