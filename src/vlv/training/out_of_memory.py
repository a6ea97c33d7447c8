"""What a run says when its memory does not suffice."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.utils.memory import should_reduce_batch_size

from vlv.errors import TrainingError
from vlv.training.config import TrainingConfig


@contextmanager
def enough_memory(stage: str, config: TrainingConfig) -> Iterator[None]:
    """Inside, a run of a stage computes.

    Raises:
        TrainingError: a device, or the CPU, has no memory left.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise TrainingError(
            f"{stage}: the memory does not suffice for batches of {config.train_batch_size} "
            f"({reason}); lower train_batch_size and raise gradient_accumulation_steps as much, or "
            "see with vlv cost what other settings would need"
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    known = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, known) or should_reduce_batch_size(error)
