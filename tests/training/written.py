"""Checkpoints without a run."""

from pathlib import Path
from typing import Any

from vlv.training.checkpoint import CheckpointWriter, Tensors
from vlv.training.processes import Processes


def write_checkpoint(output_dir: Path, step: int, tensors: Tensors, state: dict[str, Any]) -> None:
    """Write a checkpoint by this process alone, and wait for it."""
    writer = CheckpointWriter(output_dir, Processes(alone=True))
    writer.start(step, tensors, state)
    writer.wait()
