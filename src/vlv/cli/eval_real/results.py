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
    from vlv.files import atomic_file

    folder.mkdir(parents=True, exist_ok=True)
    with (
        atomic_file(folder / lines_file) as unfinished,
        open(unfinished, "w", encoding="utf-8", errors="surrogateescape") as out,
    ):
        for line in lines:
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
    text = json.dumps(to_json(result), indent=2, ensure_ascii=False)
    with atomic_file(folder / RESULT) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8", errors="surrogateescape")


def write_page(folder: Path, page: str, name: str) -> None:
    """Write a page beside the result."""
    from vlv.files import atomic_file

    with atomic_file(folder / name) as unfinished:
        unfinished.write_bytes(page.encode("utf-8", "surrogateescape"))


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
