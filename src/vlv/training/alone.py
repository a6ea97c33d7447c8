"""One run to a folder: two processes that write the same checkpoints or lessons spoil both."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vlv.errors import TrainingError

# Workers that read data outlive a process that was killed by some seconds, and hold what it held.
_PATIENCE = 20.0


@contextmanager
def alone_in(folder: Path, patience: float = _PATIENCE) -> Iterator[None]:
    """Inside, no other process of this machine trains in `folder`; a process that dies lets it go.

    Raises:
        TrainingError: one still does after `patience` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=patience)
    except Timeout as error:
        raise TrainingError(
            f"another process is training in {folder}; let it end, or name another output_dir"
        ) from error
    try:
        yield
    finally:
        lock.release()
