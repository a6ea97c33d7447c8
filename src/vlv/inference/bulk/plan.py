"""The plan of a job: its shards. It is written before any work and only extended afterwards, so
that every run has the same shards.

A plan has two files. `plan.jsonl` has a line for each shard and, if the source is a folder,
`names.jsonl` has a line for each image, in the order of the names. Both are written and read as
streams: no list of all images is ever in memory, only the names of one folder at a time. No image
is read here.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vlv.data.images import EXTENSIONS
from vlv.data.remote.locations import (
    SetFile,
    address_of,
    asked_of_each,
    shown_name,
    url_of,
)
from vlv.data.remote.tables import footer
from vlv.data.tables import columns_of
from vlv.errors import DatasetError
from vlv.inference.bulk.image_names import Entry, ImageNames, found_in
from vlv.inference.bulk.layout import Layout, files_of, load_dataset

PLAN, NAMES = "plan.jsonl", "names.jsonl"
GONE_NAMES, FREED_NAMES = "gone.jsonl", "freed.jsonl"


@dataclass(frozen=True)
class Shard:
    """A part of a job that is done as a whole.

    first: where it begins: a byte of names.jsonl, or a row of the file or dataset. images: their
    number; None if only reading the file shows it. file: the shard or table. groups: the first row
    group of a parquet file, and the one after the last.
    """

    number: int
    first: int = 0
    images: int | None = None
    file: str | None = None
    groups: tuple[int, int] | None = None

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Shard":
        """The shard in a JSON object."""
        groups = values.get("groups")
        return cls(**{**values, "groups": (groups[0], groups[1]) if groups else None})

    @property
    def name(self) -> str:
        """The name of the shard's files."""
        return f"{self.number:05d}"


def read_plan(folder: Path) -> Iterator[Shard]:
    """The shards of the plan in `folder`."""
    with open(folder / PLAN, encoding="ascii") as lines:
        for line in lines:
            yield Shard.of(json.loads(line))


def write_plan(layout: Layout, into: Path) -> None:
    """Write the plan of a source into an empty folder.

    Raises:
        DatasetError: the source holds nothing readable.
        ConfigError: a library that reads the source is not installed.
    """
    (into / PLAN).touch()
    if layout.kind == "folder":
        (into / NAMES).touch()
    extend_plan(layout, into)
    if not (into / PLAN).stat().st_size:
        raise _no_images(layout)


def extend_plan(layout: Layout, folder: Path) -> None:
    """Add new images of the source to a plan. Of a folder write the names of images that it no
    longer holds, and of those whose caption files were others' and are free now, in the order of
    the plan.

    Raises:
        DatasetError: the source holds nothing readable, or tables have other rows now.
        ConfigError: a library that reads the source is not installed.
    """
    before = list(read_plan(folder))
    number = max((shard.number for shard in before), default=-1) + 1
    if layout.kind == "folder":
        root = Path(layout.source).absolute()
        leave_out = layout.leave_out.absolute() if layout.leave_out else None
        try:
            with (
                closing(ImageNames(layout)) as names,
                open(folder / GONE_NAMES, "w") as gone,
                open(folder / FREED_NAMES, "w") as freed,
            ):
                names.find(found_in(root, leave_out))
                if not names.found_any():
                    raise _no_images(layout)
                for name, is_there in names.changed(_planned(folder)):
                    (freed if is_there else gone).write(json.dumps(name) + "\n")
                _write(_shards_of_names(names.new(), folder / NAMES, layout, number), folder)
        except sqlite3.OperationalError as error:
            raise DatasetError(
                f"the names of the images cannot be sorted in the folder for temporary files "
                f"({error}); free some space there, or name another folder in SQLITE_TMPDIR"
            ) from error
        return
    if layout.kind == "datasets":
        shards: Iterable[Shard] = () if before else _shards_of_dataset(layout)
    else:
        known: dict[str, list[Shard]] = {}
        for shard in before:
            known.setdefault(shard.file or "", []).append(shard)
        files = [
            (file, known.get(address_of(file), [])) for file in files_of(layout.source, layout.kind)
        ]
        if layout.kind == "webdataset":
            new = [file for file, old in files if not old]
            shards = (
                Shard(number + index, file=address_of(file)) for index, file in enumerate(new)
            )
        else:
            shards = _shards_of_tables(files, layout, number)
    _write(shards, folder)


def _no_images(layout: Layout) -> DatasetError:
    return DatasetError(f"{shown_name(layout.source)} holds no images ({', '.join(EXTENSIONS)})")


def _write(shards: Iterable[Shard], folder: Path) -> None:
    with open(folder / PLAN, "a", encoding="ascii") as plan:
        for shard in shards:
            plan.write(json.dumps(asdict(shard)) + "\n")


def _planned(folder: Path) -> Iterator[Entry]:
    """The images in the plan of a folder, in the plan's order."""
    with open(folder / NAMES, "rb") as lines:
        yield from map(json.loads, lines)


def gone_names(folder: Path) -> Iterator[str]:
    """The names of images in a plan that the folder no longer holds."""
    return _names_in(folder / GONE_NAMES)


def freed_names(folder: Path) -> Iterator[str]:
    """The names of those that the plan refuses because of an image that is gone by now."""
    return _names_in(folder / FREED_NAMES)


def _names_in(path: Path) -> Iterator[str]:
    if path.exists():
        with open(path, encoding="ascii") as lines:
            yield from map(json.loads, lines)


def _shards_of_names(
    entries: Iterable[Entry], path: Path, layout: Layout, number: int
) -> Iterator[Shard]:
    with open(path, "ab") as names:
        first, images = names.tell(), 0
        for entry in entries:
            if images == layout.shard_size:
                yield Shard(number, first, images)
                number, first, images = number + 1, names.tell(), 0
            names.write(json.dumps(entry).encode("ascii") + b"\n")
            images += 1
        if images:
            yield Shard(number, first, images)


Part = tuple[int, int, tuple[int, int] | None]
"""The first row, the number of rows, and the row groups of a part of a table."""


def _shards_of_tables(
    files: Sequence[tuple[SetFile, list[Shard]]], layout: Layout, number: int
) -> Iterator[Shard]:
    """The shards of files that have none. A file that cannot be read counts as one failed image."""
    found = asked_of_each(
        partial(_parts_of_table, shard_size=layout.shard_size),
        [file for file, _ in files],
        in_store=url_of(layout.source) is not None,
    )
    for (file, before), parts in zip(files, found, strict=True):
        # A file that could not be read has no row groups; it may be readable now.
        known = [(one.first, one.images, one.groups) for one in before if one.groups]
        if isinstance(parts, DatasetError):
            if known:
                raise parts
            parts = [(0, 1, None)]
        if known or (before and parts == [(0, 1, None)]):
            if known and parts != known:
                raise DatasetError(
                    f"{file} has other rows than when the job was begun; name a new folder for the "
                    "results, or put the file back"
                )
            continue
        for first, images, groups in parts:
            yield Shard(number, first, images, address_of(file), groups)
            number += 1


def _parts_of_table(file: SetFile, shard_size: int) -> list[Part] | DatasetError:
    """The parts of a parquet file, or why it cannot be read."""
    try:
        about, names = footer(file)
        columns_of(Path(file.name), names)
    except DatasetError as error:
        return error
    parts: list[Part] = []
    first = group = rows = 0
    for end in range(1, about.num_row_groups + 1):
        rows += about.row_group(end - 1).num_rows
        if rows >= shard_size or (end == about.num_row_groups and rows):
            parts.append((first, rows, (group, end)))
            first, group, rows = first + rows, end, 0
    return parts


def _shards_of_dataset(layout: Layout) -> Iterator[Shard]:
    dataset = load_dataset(layout.source)
    for number, first in enumerate(range(0, len(dataset), layout.shard_size)):
        yield Shard(number, first, min(layout.shard_size, len(dataset) - first))
