"""Inputs that failed while others went on: named as they come, counted in the exit code."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vlv.errors import DatasetError
from vlv.text import printable

if TYPE_CHECKING:
    from vlv.inference.inputs import Found
    from vlv.inference.records import Refused


class Failures:
    """Names each refused input on standard error, and with `as_json` on standard output too."""

    def __init__(self, as_json: bool) -> None:
        self.count = 0
        self._as_json = as_json

    def add(self, *refused: "Refused") -> None:
        """Report inputs that gave no result."""
        for one in refused:
            self.count += 1
            typer.echo(f"vlv: {one.reason}: {printable(one.message)}", err=True)
            if self._as_json:
                record = {"file_name": one.name, "error": one.reason, "message": one.message}
                typer.echo(json.dumps(record))

    def exit(self) -> None:
        """Leave with exit code 1 if any input failed."""
        if self.count:
            raise typer.Exit(1)


def refuse_none(found: "Found", paths: Iterable[Path], recursive: bool) -> None:
    """Raises DatasetError when there is nothing to work on, and nothing that failed either."""
    if not found.images and not found.refused:
        names = ", ".join(printable(path) for path in paths)
        hint = "" if recursive else "; --recursive searches its subfolders"
        raise DatasetError(f"there is no image in {names}{hint}")
