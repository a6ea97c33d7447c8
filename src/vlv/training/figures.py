"""`metrics.jsonl` of a run: a line of figures for each step that logged any."""

import json
import logging
from pathlib import Path

from vlv.errors import TrainingError
from vlv.files import atomic_file
from vlv.text import parse_json
from vlv.training.writing import writing

logger = logging.getLogger(__name__)

_FILE = "metrics.jsonl"


def append_figures(output_dir: Path, line: dict[str, float]) -> None:
    """Add the figures of a step; `line` names it as `step`."""
    path = output_dir / _FILE
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def forget_figures_after(output_dir: Path, step: int) -> None:
    """Drop the lines of later steps, which a resumed run writes again, and those that a crash tore
    or overwrote.
    """
    path = output_dir / _FILE
    if not path.exists():
        return
    kept, damaged = [], 0
    for line in filter(None, path.read_bytes().split(b"\n")):
        at = _step_of(line)
        damaged += at is None
        if at is not None and at <= step:
            kept.append(line + b"\n")
    if damaged:
        logger.warning("%d lines of %s cannot be read and are left out", damaged, path)
    with writing(path), atomic_file(path) as unfinished:
        unfinished.write_bytes(b"".join(kept))


def _step_of(line: bytes) -> int | None:
    """The step whose figures a line holds; None where a crash left something else."""
    try:
        told = parse_json(line, "a line", TrainingError)
    except TrainingError:
        return None
    step = told.get("step") if isinstance(told, dict) else None
    return step if isinstance(step, int) else None
