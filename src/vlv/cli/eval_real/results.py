"""How the commands on real images end: the files of a result, its tables, what has no result."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vlv.cli.evaluate import print_tables
from vlv.text import printable

if TYPE_CHECKING:
    from vlv.evaluation.real.judging import Asked
    from vlv.evaluation.results import Result

RESULT = "result.json"


def write_results(
    folder: Path, result: "Result", lines: Iterable[Mapping[str, Any]], lines_file: str
) -> None:
    """Write the result and, one JSON object a line, what it was computed from."""
    from vlv.evaluation.results import to_json
    from vlv.files import write_json, write_text

    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_text(folder / lines_file, text)
    write_json(folder / RESULT, to_json(result))


def print_results(result: "Result", files: Iterable[Path], as_json: bool) -> None:
    """Print the tables and the names of the files, or the result as JSON on one line."""
    from vlv.evaluation.results import to_json

    if as_json:
        typer.echo(json.dumps(to_json(result), ensure_ascii=False))
        return
    print_tables(result)
    typer.echo(", ".join(printable(file) for file in files))


def exit_after(asked: "Asked | None" = None, left_out: Mapping[str, str] | None = None) -> None:
    """Name the questions without an answer and, each with a sentence, the images that were left
    out. Exit: 1 where something failed, 128 + N after a signal.
    """
    from vlv.cli.common import Failures
    from vlv.inference.records import Refused

    failures = Failures(as_json=False)
    if asked is not None:
        failures.add(*asked.refused)
    failures.add(*(Refused(name, "left-out", why) for name, why in (left_out or {}).items()))
    if asked is not None and asked.stopped:
        typer.echo(f"vlv: {asked.not_asked:,} questions were not asked: {asked.stopped}", err=True)
        raise typer.Exit(128 + asked.signal if asked.signal else 1)
    failures.exit()
