"""The plan of a job: its shards. It is written before any work and only extended afterwards, so
that every run has the same shards.

A plan has two files. `plan.jsonl` has a line for each shard and, if the source is a folder,
`names.jsonl` has a line for each image, in the order of the names. Both are written and read as
streams: no list of all images is ever in memory, only the names of one folder at a time. No image
is read here.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from vlv.data.images import EXTENSIONS
from vlv.data.remote.locations import (
    SetFile,
    address_of,
    asked_of_each,
    expanded,
    is_pattern,
    shown_name,
    url_of,
)
from vlv.data.remote.tables import footer
from vlv.data.sets import detect_format
from vlv.data.tables import columns_of
from vlv.data.walking import walk
from vlv.errors import ConfigError, DatasetError
from vlv.text import printable

Kind = Literal["folder", "webdataset", "parquet", "datasets"]
SUFFIXES: dict[Kind, str] = {"webdataset": ".tar", "parquet": ".parquet"}
PLAN, NAMES = "plan.jsonl", "names.jsonl"
GONE_NAMES, FREED_NAMES = "gone.jsonl", "freed.jsonl"
# Why an image is not captioned: it has a caption, or would share the caption file of another one.
KEPT, SHARED = "kept", "shared-caption-file"


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


@dataclass(frozen=True)
class Layout:
    """Where the images are, and which of them are captioned.

    Args:
        source: as for `kind_of`.
        kind: the layout of the source.
        shard_size: images in a shard; WebDataset's shards and parquet's row groups stay whole.
        leave_out: a folder inside the source that is skipped.
        caption_of: gives the caption file of an image's name, if the source is a folder and
            captions are files. Of images that share a file the first is captioned.
        is_kept: whether such a file exists and must not be replaced.
        outlives: whether such a file is a result that stays when its image is gone.
    """

    source: str
    kind: Kind
    shard_size: int
    leave_out: Path | None = None
    caption_of: Callable[[str], Path] | None = None
    is_kept: Callable[[Path], bool] = lambda path: False
    outlives: Callable[[Path], bool] = lambda path: False


def kind_of(source: str) -> Kind:
    """The layout of the images at a path, or in the files of a pattern.

    Raises:
        DatasetError: nothing is there, or nothing in a known layout.
    """
    path = Path(source)
    if (path / "dataset_dict.json").is_file():
        raise DatasetError(f"{path} holds several splits; name the folder of one of them")
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return "datasets"
    if path.exists() or url_of(source) is not None or is_pattern(source):
        kind: Kind = detect_format(path)  # type: ignore[assignment]
        return kind
    raise DatasetError(
        f"there is nothing at {source}: name a folder, or .tar or .parquet files, of which several "
        "can be named by a quoted pattern such as 'shards/{00000..00009}.tar' or 'shards/*.tar'"
    )


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
                closing(_Names(layout)) as names,
                open(folder / GONE_NAMES, "w") as gone,
                open(folder / FREED_NAMES, "w") as freed,
            ):
                names.find(_walk(root, leave_out))
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
            (file, known.get(address_of(file), [])) for file in _files(layout.source, layout.kind)
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


def _planned(folder: Path) -> Iterator["Entry"]:
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


def _files(source: str, kind: Kind) -> list[SetFile]:
    """The files of a folder, a name or a pattern, in order."""
    files = expanded(source, (SUFFIXES[kind],))
    return [file.absolute() if isinstance(file, Path) else file for file in files]


Entry = list[str]
"""The name of an image and, if it will not be captioned, the reason and a message."""


class _Names:
    """The names of a folder's images, in a database on disk: they may exceed the memory."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._names = sqlite3.connect("")
        self._names.execute(
            "CREATE TABLE images (name BLOB PRIMARY KEY, problem, planned DEFAULT 0) WITHOUT ROWID"
        )
        for table in ("captions", "left_captions"):
            self._names.execute(f"CREATE TABLE {table} (name BLOB PRIMARY KEY) WITHOUT ROWID")

    def close(self) -> None:
        self._names.close()

    def found_any(self) -> bool:
        return bool(self._names.execute("SELECT EXISTS (SELECT 1 FROM images)").fetchone()[0])

    def find(self, found: Iterable[tuple[bytes, str | None]]) -> None:
        """Add the images that were found in the folder."""
        self._names.executemany("INSERT OR IGNORE INTO images (name, problem) VALUES (?, ?)", found)

    def changed(self, planned: Iterable[Entry]) -> Iterator[tuple[str, bool]]:
        """The names in a plan that the folder does not hold (False), and those whose caption files
        were others' and are free now (True).
        """
        for name, *refused in planned:
            reason = refused[0] if refused else None
            held = self._names.execute(
                "UPDATE images SET planned = 1 WHERE name = ?", [os.fsencode(name)]
            ).rowcount
            if not held:
                yield name, False
                self._leave(name, reason)
            elif self._is_first(name) and reason == SHARED:
                yield name, True

    def new(self) -> Iterator[Entry]:
        """The entries of images that are not in the plan, in the order of their names."""
        query = "SELECT name, problem FROM images WHERE NOT planned ORDER BY name"
        for raw, problem in self._names.execute(query):
            name = os.fsdecode(raw)
            if problem:
                yield [name, "unreadable", problem]
            elif not self._is_first(name):  # a caption that is there is the other's
                message = f"{printable(name)} would share the caption file of an image before it"
                yield [name, SHARED, message]
            elif self._is_kept(name):
                yield [name, KEPT, f"{printable(name)} has a caption already"]
            else:
                yield [name]

    def _leave(self, name: str, reason: str | None) -> None:
        """Note what becomes of the caption of an image that is gone."""
        caption_of = self._layout.caption_of
        if caption_of is None or reason == SHARED:
            return
        if self._layout.outlives(caption_of(name)):
            self._is_first(name)
        elif reason != KEPT:
            self._add("left_captions", name)

    def _is_kept(self, name: str) -> bool:
        """Whether an image has a caption that must stay. What the job wrote for one that is gone
        belongs to no other image.
        """
        if self._layout.caption_of is None:
            return False
        path = self._layout.caption_of(name)
        query = "SELECT EXISTS (SELECT 1 FROM left_captions WHERE name = ?)"
        is_left = self._names.execute(query, [os.fsencode(path)]).fetchone()[0]
        return not is_left and self._layout.is_kept(path)

    def _is_first(self, name: str) -> bool:
        """Whether no earlier image has the same caption file."""
        return self._layout.caption_of is None or self._add("captions", name)

    def _add(self, table: str, name: str) -> bool:
        """Note the caption file of an image; False where it was noted before."""
        assert self._layout.caption_of is not None  # its callers ask
        file = os.fsencode(self._layout.caption_of(name))
        return self._names.execute(f"INSERT OR IGNORE INTO {table} VALUES (?)", [file]).rowcount > 0


def _walk(root: Path, leave_out: Path | None) -> Iterator[tuple[bytes, str | None]]:
    """(name in the folder, problem) of images, and of folders that cannot be read."""
    for path, problem in walk(root, leave_out=leave_out):
        name = PurePosixPath(os.path.relpath(path, root)).as_posix()
        yield os.fsencode(name), printable(problem) if problem else None


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


def load_dataset(source: str):  # type: ignore[no-untyped-def]
    """A dataset that was saved to disk, as the library's `Dataset`; its images stay encoded.

    Raises:
        ConfigError: the library `datasets` is not installed.
        DatasetError: it cannot be read, or has no column `image` of images.
    """
    try:
        from datasets import Image, load_from_disk
    except ImportError as error:
        raise ConfigError(
            "a saved dataset needs the library datasets; install it with: pip install 'vlv[data]'"
        ) from error
    try:
        dataset = load_from_disk(source)
    except (OSError, ValueError) as error:
        raise DatasetError(f"the dataset {source} cannot be read ({error})") from error
    if not isinstance(dataset.features.get("image"), Image):
        raise DatasetError(
            f"the dataset {source} has no column 'image' of images; its columns are "
            f"{', '.join(dataset.column_names)}"
        )
    return dataset.cast_column("image", Image(decode=False))
