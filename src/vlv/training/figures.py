"""`metrics.jsonl` of a run: a line of figures for each step that logged any."""

import json
from pathlib import Path

from vlv.files import atomic_file

_FILE = "metrics.jsonl"


def append_figures(output_dir: Path, line: dict[str, float]) -> None:
    """Add the figures of a step; `line` names it as `step`."""
    with (output_dir / _FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def forget_figures_after(output_dir: Path, step: int) -> None:
    """Drop the lines of later steps, which a resumed run writes again."""
    path = output_dir / _FILE
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    # A cut can tear the last line; what has no newline was never finished.
    kept = [x for x in lines if x.endswith("\n") and json.loads(x)["step"] <= step]
    with atomic_file(path) as unfinished:
        unfinished.write_text("".join(kept), encoding="utf-8")
