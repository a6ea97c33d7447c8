"""Out-of-distribution images on the command line: a list of their names, and a warning."""

import os
from collections.abc import Sequence
from pathlib import Path

import typer

from vlv.text import printable


def check_ood_list(file: Path) -> None:
    """Raises ConfigError where no list of names can be written."""
    from vlv.errors import ConfigError

    if file.is_dir() or not file.absolute().parent.is_dir():
        raise ConfigError(f"--ood-list {printable(file)} names no file in a folder that exists")


def add_to_ood_list(file: Path, names: Sequence[str]) -> None:
    """Add names of out-of-distribution images to a list that `--filelist` reads, each once.

    Names that the list holds already stay; several runs may write to it.
    """
    from vlv.files import atomic_file
    from vlv.inference.written import one_at_a_time

    with one_at_a_time(file):
        before = file.read_bytes() if file.is_file() else b""
        known = before.split(b"\0" if b"\0" in before else b"\n")
        each = dict.fromkeys([*filter(None, known), *map(os.fsencode, names)])
        end = b"\0" if any(b"\n" in name for name in each) else b"\n"
        with atomic_file(file) as unfinished:
            unfinished.write_bytes(b"".join(name + end for name in each))


def warn_of_ood(
    count: int, names: Sequence[str], *, skipped: bool = False, judged: bool = False
) -> None:
    """Print one line on standard error for all out-of-distribution images.

    names: the first of them. skipped: whether they got no caption. judged: whether captions were
    checked rather than written.
    """
    if not count:
        return
    several = count > 1
    listed = ", ".join(printable(name) for name in names[:2])
    more = f" and {count - 2:,} more" if count > 2 else ""
    subject = f"{count:,} pictures are" if several else "1 picture is"
    captions = "their captions" if several else "its caption"
    if skipped:
        so = f"{'they were' if several else 'it was'} not captioned"
    else:
        so = f"{captions} cannot be {'judged' if judged else 'trusted'}"
    typer.echo(
        f"vlv: warning: {subject} unlike those that this model was trained on ({listed}{more}): "
        f"{so}; for photographs use full-size weights (docs/full_size.md)",
        err=True,
    )
