"""A file of JSON lines that takes hours to make. It is written a batch at a time: a run that was
cut off continues with the batch that it was at, to the same lines. Each line is a dataclass.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from vlv.errors import TrainingError
from vlv.files import sync
from vlv.progress import ProgressBar
from vlv.text import first_fault, parse_json
from vlv.training.run_folder import writing

logger = logging.getLogger(__name__)

Wanted = TypeVar("Wanted")
Line = TypeVar("Line")


def write_lines(
    path: Path,
    wanted: Sequence[Wanted],
    make: Callable[[Sequence[Wanted]], Iterable[Any]],
    batch_size: int,
    after: Callable[[int, float], None] = lambda batch, seconds: None,
) -> None:
    """Make the file at `path`, or what is missing of it: a line for each of `wanted`, which are
    made `batch_size` at a time as dataclasses.

    after: called with the number of lines after each batch and the CPU seconds that it took.
    """
    if path.is_file():
        return
    unfinished = path.with_suffix(".unfinished")
    done = _cut_to_whole_batches(unfinished, batch_size)
    bar = ProgressBar(
        total=len(wanted), initial=done, unit="picture", description=path.stem, say=logger.info
    )
    with writing(path), unfinished.open("a", encoding="utf-8") as file, bar:
        for start in range(done, len(wanted), batch_size):
            part, began = wanted[start : start + batch_size], time.process_time()
            for one in make(part):
                file.write(json.dumps(asdict(one)) + "\n")
            file.flush()
            after(start + len(part), time.process_time() - began)
            bar.update(len(part))
    sync(unfinished)
    os.replace(unfinished, path)


def read_lines(path: Path, kind: type[Line], what: str) -> list[Line]:
    """The lines of a file that `write_lines` made of dataclasses `kind`.

    Raises:
        TrainingError: the file cannot be read, or a line is no `what`.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise TrainingError(f"{path} cannot be read ({error.strerror})") from error
    adapter = TypeAdapter(kind)
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"line {number} of {path}"
        try:
            found.append(adapter.validate_python(parse_json(line, where, TrainingError)))
        except ValidationError as error:
            fault = first_fault(error, "the line")
            raise TrainingError(
                f"{where} is no {what} ({fault}); remove the file to make all of them again"
            ) from error
    return found


def _cut_to_whole_batches(path: Path, batch_size: int) -> int:
    """How many lines of an unfinished file hold; what a killed process left behind them goes."""
    if not path.is_file():
        return 0
    lines = path.read_bytes().splitlines(keepends=True)
    whole = sum(line.endswith(b"\n") for line in lines) // batch_size * batch_size
    os.truncate(path, sum(map(len, lines[:whole])))
    return whole
