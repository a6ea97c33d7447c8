"""Checkpoints without a run."""

from pathlib import Path
from typing import Any

from vlv.training.checkpoint import CheckpointWriter, Tensors, read_checkpoint
from vlv.training.processes import Processes


def write_checkpoint(output_dir: Path, step: int, tensors: Tensors, state: dict[str, Any]) -> None:
    """Write a checkpoint by this process alone, and wait for it."""
    writer = CheckpointWriter(output_dir, Processes(alone=True))
    writer.start(step, tensors, state)
    writer.wait()


def as_of_an_earlier_version(checkpoint: Path, *fields: str) -> None:
    """Write a checkpoint anew, whose state does not have these fields yet."""
    tensors, state = read_checkpoint(checkpoint)
    for field in fields:
        del state[field]
    write_checkpoint(checkpoint.parent, state["step"], tensors, state)
