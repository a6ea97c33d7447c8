"""How a job is cut into shards: written once, before any work, so that every run cuts alike.

A plan is two files. `plan.jsonl` has a line for each shard; `names.jsonl`, of a folder, a line for
each image, in the order of the names. Both are written and read as streams: no list of all images
is ever held in memory. Knows where images are; reads none.
"""

import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from glob import glob, has_magic
from pathlib import Path, PurePosixPath
from typing import Literal

from vlv.data.images import EXTENSIONS, OTHER_EXTENSIONS
from vlv.data.sets import detect_format
from vlv.data.tables import import_pyarrow
from vlv.errors import ConfigError, DatasetError
from vlv.inference.caption_files import holds_text

Kind = Literal["folder", "webdataset", "parquet", "datasets"]
SUFFIXES: dict[Kind, str] = {"webdataset": ".tar", "parquet": ".parquet"}
PLAN, NAMES = "plan.jsonl", "names.jsonl"
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Shard:
    """A part of a job that is done as a whole.

    `first` is where it begins: a byte of names.jsonl, or a row of the file or dataset; `groups` are
    the first row group of a parquet file and the one after the last. `images` is None where only
    reading tells.
    """

    number: int
    first: int = 0
    images: int | None = None
    file: str | None = None
    groups: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """What files of the shard are called."""
        return f"{self.number:05d}"


@dataclass(frozen=True)
class Plan:
    """What a whole plan amounts to. `images` is None where only reading tells."""

    fingerprint: str
    shards: int
    images: int | None


def kind_of(source: str) -> Kind:
    """In which layout the images at a path, or of a pattern of files, are.

    Raises:
        DatasetError: nothing is there, or nothing that is known.
    """
    path = Path(source)
    if (path / "dataset_dict.json").is_file():
        raise DatasetError(f"{path} holds several splits; name the folder of one of them")
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return "datasets"
    if path.exists():
        kind: Kind = detect_format(path)  # type: ignore[assignment]
        return kind
    for kind, suffix in SUFFIXES.items():
        if source.endswith(suffix):
            return kind
    raise DatasetError(
        f"there is nothing at {source}: name a folder, or .tar or .parquet files, of which several "
        "can be named by a quoted pattern such as 'shards/{00000..00009}.tar' or 'shards/*.tar'"
    )


def read_plan(folder: Path) -> Iterator[Shard]:
    """The shards of a plan that was written into `folder`."""
    with open(folder / PLAN, encoding="ascii") as lines:
        for line in lines:
            values = json.loads(line)
            if values["groups"]:
                values["groups"] = tuple(values["groups"])
            yield Shard(**values)


def write_plan(
    source: str,
    kind: Kind,
    into: Path,
    *,
    shard_size: int,
    leave_out: Path | None = None,
    caption_of: Callable[[str], Path] | None = None,
    keep_captions: bool = False,
) -> Plan:
    """Look through a source and write its plan.

    Args:
        source: as `kind_of` takes it.
        kind: its layout.
        into: the folder for the files of the plan.
        shard_size: images of a shard; WebDataset's own shards and parquet's row groups stay whole.
        leave_out: a folder inside the source whose images are not meant.
        caption_of: of a folder, where captions are files: that file, by the image's name. Of
            images that share one the first is captioned.
        keep_captions: whether images with such a file are not captioned again.

    Raises:
        DatasetError: nothing readable is there.
        ConfigError: what is needed to read it is not installed.
    """
    digest = hashlib.sha256()
    if kind == "folder":
        root = Path(source).absolute()
        found = _walk(root, leave_out.absolute() if leave_out else None)
        names = _named(found, caption_of, keep_captions, digest.update)
        shards = _shards_of_names(names, into / NAMES, shard_size)
    elif kind == "datasets":
        shards = _shards_of_dataset(source, shard_size, digest.update)
    else:
        files = _files(source, kind)
        for file in files:
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        shards = (
            (Shard(number, file=str(file)) for number, file in enumerate(files))
            if kind == "webdataset"
            else _shards_of_tables(files, shard_size)
        )
    count, images, known = 0, 0, True
    with open(into / PLAN, "w", encoding="ascii") as plan:
        for shard in shards:
            plan.write(json.dumps(asdict(shard)) + "\n")
            count += 1
            images += shard.images or 0
            known &= shard.images is not None
    if not count:
        raise DatasetError(f"{source} holds no images ({', '.join(EXTENSIONS)})")
    return Plan(digest.hexdigest()[:16], count, images if known else None)


def _files(source: str, kind: Kind) -> list[Path]:
    """The files that a folder, a name or a pattern stands for, in order."""
    suffix = SUFFIXES[kind]
    if os.path.isdir(source):
        return sorted(Path(source).absolute().glob(f"*{suffix}"))
    names = _expanded(source)
    found = [name for one in names for name in (sorted(glob(one)) if has_magic(one) else [one])]
    missing = [name for name in found if not os.path.isfile(name)]
    if missing or not found:
        raise DatasetError(f"there is no file {missing[0] if missing else source}")
    return [Path(name).absolute() for name in found]


def _expanded(pattern: str) -> list[str]:
    """`{00..12}` spelled out, as shells and webdataset do."""
    found = _RANGE.search(pattern)
    if not found:
        return [pattern]
    first, last = found.groups()
    numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [name for number in numbers for name in _expanded(before + number + after)]


Entry = list[str]
"""The name of an image, and where it will not be captioned also the reason and a message."""


def _named(
    found: Iterable[tuple[bytes, str | None]],
    caption_of: Callable[[str], Path] | None,
    keep_captions: bool,
    digest: Callable[[bytes], None],
) -> Iterator[Entry]:
    """The entries of names.jsonl, in order of the names."""
    # A database on disk sorts more names than the memory holds.
    with closing(sqlite3.connect("")) as names:
        names.execute("CREATE TABLE images (name BLOB PRIMARY KEY, problem) WITHOUT ROWID")
        names.execute("CREATE TABLE captions (name BLOB PRIMARY KEY) WITHOUT ROWID")
        names.executemany("INSERT INTO images VALUES (?, ?)", found)
        for raw, problem in names.execute("SELECT * FROM images ORDER BY name"):
            # Not its size: an image that failed may be mended before it is tried again.
            digest(raw + b"\0")
            name = os.fsdecode(raw)
            if problem:
                yield [name, "unreadable", problem]
            elif caption_of is None:
                yield [name]
            elif keep_captions and holds_text(caption_of(name)):
                yield [name, "kept", f"{name} has a caption already"]
            elif names.execute(
                "INSERT OR IGNORE INTO captions VALUES (?)", [os.fsencode(caption_of(name))]
            ).rowcount:
                yield [name]
            else:
                message = f"{name} would share the caption file of an image before it"
                yield [name, "shared-caption-file", message]


def _walk(root: Path, leave_out: Path | None) -> Iterator[tuple[bytes, str | None]]:
    """(name in the folder, what is wrong) of images and of unreadable folders."""
    problems: list[OSError] = []
    for parent, folders, files in os.walk(root, onerror=problems.append):
        folders[:] = [
            name for name in folders if not name.startswith(".") and Path(parent, name) != leave_out
        ]
        for name in files:
            if name.lower().endswith((*EXTENSIONS, *OTHER_EXTENSIONS)) and name[0] != ".":
                path = os.path.relpath(os.path.join(parent, name), root)
                yield os.fsencode(PurePosixPath(path).as_posix()), None
    for error in problems:
        message = f"the folder {error.filename} cannot be read ({error.strerror})"
        yield os.fsencode(os.path.relpath(error.filename, root)), message


def _shards_of_names(entries: Iterable[Entry], path: Path, shard_size: int) -> Iterator[Shard]:
    with open(path, "wb") as names:
        number = first = images = 0
        for entry in entries:
            if images == shard_size:
                yield Shard(number, first, images)
                number, first, images = number + 1, names.tell(), 0
            names.write(json.dumps(entry).encode("ascii") + b"\n")
            images += 1
        if images:
            yield Shard(number, first, images)


def _shards_of_tables(files: Iterable[Path], shard_size: int) -> Iterator[Shard]:
    pa, pq = import_pyarrow()
    number = 0
    for file in files:
        try:
            about = pq.ParquetFile(file).metadata
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{file} is damaged, or is no parquet file ({error})") from error
        first = group = rows = 0
        for end in range(1, about.num_row_groups + 1):
            rows += about.row_group(end - 1).num_rows
            if rows >= shard_size or (end == about.num_row_groups and rows):
                yield Shard(number, first, rows, str(file), (group, end))
                number, first, group, rows = number + 1, first + rows, end, 0


def _shards_of_dataset(
    source: str, shard_size: int, digest: Callable[[bytes], None]
) -> Iterator[Shard]:
    dataset = load_dataset(source)
    digest(str(dataset._fingerprint).encode())
    for number, first in enumerate(range(0, len(dataset), shard_size)):
        yield Shard(number, first, min(shard_size, len(dataset) - first))


def load_dataset(source: str):  # type: ignore[no-untyped-def]
    """A dataset that was saved to disk, its images still encoded, as the library's `Dataset`.

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
