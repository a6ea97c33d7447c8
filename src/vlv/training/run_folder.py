"""The folder of a run: its lock, its metrics log, and what a disk refuses."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from vlv.errors import TrainingError
from vlv.files import atomic_file, exclusive_lock
from vlv.text import parse_json

logger = logging.getLogger(__name__)

_METRICS_FILE = "metrics.jsonl"
# Workers that read data outlive a process that was killed by some seconds, and hold what it held.
_PATIENCE = 20.0


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside, `path` is written.

    Raises:
        TrainingError: the disk is full, or refuses it otherwise; the file is named.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{path} cannot be written ({reason_of(error)}); free some space or repair the disk, "
            "and start the same command again: with resume_from_checkpoint=latest, the default, it "
            "goes on from the last checkpoint"
        ) from error


def reason_of(error: OSError | SafetensorError) -> str:
    """What is wrong, in a few words."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


@contextmanager
def run_lock(folder: Path, patience: float = _PATIENCE) -> Iterator[None]:
    """Inside, no other process of this machine trains in `folder`; a process that dies releases it.

    Raises:
        TrainingError: one still does after `patience` seconds, or `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"output_dir {folder} is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    busy = TrainingError(
        f"another process is training in {folder}; let it end, or name another output_dir"
    )
    with exclusive_lock(folder / ".lock", busy, patience=patience):
        yield


def append_metrics(output_dir: Path, line: dict[str, float]) -> None:
    """Add the metrics of a step; `line` names it as `step`."""
    path = output_dir / _METRICS_FILE
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def drop_metrics_after(output_dir: Path, step: int) -> None:
    """Drop the lines of later steps, which a resumed run writes again, and those that a crash tore
    or overwrote.
    """
    path = output_dir / _METRICS_FILE
    if not path.exists():
        return
    kept, damaged = [], 0
    for line, metrics in _lines(output_dir):
        if metrics is None:
            damaged += 1
        elif metrics["step"] <= step:
            kept.append(line + b"\n")
    if damaged:
        logger.warning("%d lines of %s cannot be read and are left out", damaged, path)
    with writing(path), atomic_file(path) as unfinished:
        unfinished.write_bytes(b"".join(kept))


def read_metrics(output_dir: Path, step: int) -> dict[str, float]:
    """Everything that was logged at a step."""
    found: dict[str, float] = {}
    for _, metrics in _lines(output_dir):
        if metrics is not None and metrics["step"] == step:
            found |= metrics
    return found


def sum_of_metrics(output_dir: Path, name: str) -> float:
    """The sum of a metric over all steps that were logged; lines that a crash tore do not count."""
    return sum(metrics.get(name, 0.0) for _, metrics in _lines(output_dir) if metrics is not None)


def _lines(output_dir: Path) -> Iterator[tuple[bytes, dict[str, float] | None]]:
    """Each line of the metrics log with its metrics; None where a crash left something else."""
    path = output_dir / _METRICS_FILE
    for line in filter(None, path.read_bytes().split(b"\n") if path.exists() else []):
        try:
            metrics = parse_json(line, "a line", TrainingError)
        except TrainingError:
            metrics = None
        is_step = isinstance(metrics, dict) and isinstance(metrics.get("step"), int)
        yield line, metrics if is_step else None
