"""What several commands need: progress, inputs that fail, notes about the opened model, and
out-of-distribution images, as a list of their names and a warning.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from vlv.errors import ConfigError, DatasetError
from vlv.text import printable

if TYPE_CHECKING:
    from vlv.data.engines import Engine, Workers
    from vlv.data.lenient import Unusable
    from vlv.inference.batching import BatchSize
    from vlv.inference.inputs import Found
    from vlv.inference.presets import Preset
    from vlv.inference.records import Refused
    from vlv.models.vlv import VLVModel
    from vlv.progress import ProgressBar
    from vlv.training.samples.set_latents import Refusal

T = TypeVar("T")


def usable_cores() -> int:
    """Number of cores that this process may use, or all cores where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def workers_of(count: int | None, engine: "Engine", ray_address: str | None) -> "Workers":
    """The workers of a data job, one for each core of this machine if `count` is None.

    Raises:
        ConfigError: Ray is named and not installed, or has an address and is not named.
    """
    from vlv.data.engines import Workers
    from vlv.data.ray_cluster import cluster_address, import_ray

    if engine == "ray":
        import_ray(cluster_address(ray_address))
    return Workers(count or usable_cores(), engine, ray_address)


def progress(
    items: Iterable[T], *, total: int | None = None, unit: str = "image", description: str = ""
) -> Iterator[T]:
    """`items`, with `progress_bar`."""
    return iter(progress_bar(items, total=total, unit=unit, description=description))


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    initial: int = 0,
    unit: str = "image",
    description: str = "",
) -> "ProgressBar":
    """A progress bar on standard error after two seconds, of `items` or moved by hand; a line a
    minute if standard error is not a terminal.
    """
    from vlv.progress import ProgressBar

    return ProgressBar(
        items, total=total, initial=initial, unit=unit, description=description, say=note
    )


def is_seen() -> bool:
    """Whether standard output is a terminal, whose lines show how far the work is."""
    return sys.stdout is not None and sys.stdout.isatty()


def require_standard_output(instead: str) -> None:
    """Raises ConfigError where standard output is closed, for a command that writes nowhere else.
    instead: the flags that write files.
    """
    if sys.stdout is None:
        raise ConfigError(
            "standard output is closed, so that the results would be lost; open it, or give "
            + instead
        )


def note(line: str) -> None:
    """A line about the work on standard error."""
    typer.echo(f"vlv: {printable(line)}", err=True)


class Failures:
    """Reports each refused input on standard error, and with `as_json` on standard output too."""

    def __init__(self, as_json: bool) -> None:
        self.count = 0
        self._as_json = as_json

    def add(self, *refused: "Refused | Refusal | Unusable") -> None:
        """Report inputs that gave no result."""
        for one in refused:
            self.count += 1
            typer.echo(f"vlv: {one.reason}: {printable(one.message)}", err=True)
            if self._as_json:
                record = {"file_name": one.name, "error": one.reason, "message": one.message}
                typer.echo(json.dumps(record))

    def exit(self) -> None:
        """Exit with code 1 if any input failed."""
        if self.count:
            raise typer.Exit(1)


def was_given(context: typer.Context, name: str) -> bool:
    """Whether an option was given on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Raises ConfigError for a place that holds something, unless it may be replaced."""
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists already; choose another name or give --overwrite")


def require_images(found: "Found", paths: Iterable[Path], recursive: bool) -> None:
    """Raises DatasetError if no image was found and none was refused either."""
    if not found.images and not found.refused:
        names = ", ".join(printable(path) for path in paths)
        hint = "" if recursive else "; --recursive searches its subfolders"
        raise DatasetError(f"there is no image in {names}{hint}")


def smallest(size: "BatchSize") -> int:
    """How many images must fit into the memory together; "auto" goes down to one."""
    return 1 if size == "auto" else size


def note_differences(preset: "Preset", model: "VLVModel") -> None:
    """Name on standard error what a preset cannot change because of how the model was trained."""
    for difference in preset.differences(model):
        typer.echo(
            f"vlv: note: this model was trained with {difference}; the preset does not change that",
            err=True,
        )


def check_ood_list(file: Path) -> None:
    """Raises ConfigError where no list of names can be written."""
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


def is_fine_tune(model: "VLVModel") -> bool:
    """Whether `vlv finetune` made the model's captions."""
    return "finetune" in model.manifest.provenance.get("stages", {})


def warn_of_ood(
    count: int,
    names: Sequence[str],
    *,
    skipped: bool = False,
    judged: bool = False,
    fine_tuned: bool = False,
) -> None:
    """Print one line on standard error for all out-of-distribution images.

    names: the first of them. skipped: whether they got no caption. judged: whether captions were
    checked rather than written. fine_tuned: whether the model is a fine-tune, which sees as its
    base does.
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
    model = (
        "the base of this fine-tune was trained on, and a fine-tune does not change what it sees"
        if fine_tuned
        else "this model was trained on"
    )
    typer.echo(
        f"vlv: warning: {subject} unlike those that {model} ({listed}{more}): "
        f"{so}; for photographs use full-size weights (docs/full_size.md)",
        err=True,
    )
