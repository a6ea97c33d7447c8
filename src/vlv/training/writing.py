"""What a disk refuses while a run writes, as one sentence. Knows no file's contents."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from vlv.errors import TrainingError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside, `path` is written.

    Raises:
        TrainingError: the disk is full, or refuses it otherwise; the file is named.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise TrainingError(
            f"{path} cannot be written ({reason}); free some space or mend the disk, and start the "
            "same command again: it goes on from the last checkpoint"
        ) from error
