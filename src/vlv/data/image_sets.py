"""Sets of images on disk by number: what training needs, where reading in order is not enough.

The number of a sample is a function of the set alone: files of a folder in the order of their
paths, shards and tables in the order of their names and then of what they hold. Knows the three
layouts of `vlv.data.sets`; decodes no image and knows nothing of training.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlv.data.folder import (
    image_names,
    read_metadata,
    read_sample,
    several_lines,
    warn_of_several_lines,
)
from vlv.data.images import EXTENSIONS
from vlv.data.samples import Sample
from vlv.data.sets import check_format, detect_format, files_of
from vlv.data.shards import (
    check_complete,
    extension_and_key,
    plain_members,
    sample_of_members,
)
from vlv.data.tables import caption_column, holds_text, import_pyarrow, sample_of_row
from vlv.data.tars import BLOCK
from vlv.data.world_images import made_once
from vlv.errors import DatasetError
from vlv.files import atomic_file

# Row groups that a process holds. Samples come in random order, so more would seldom help.
_ROW_GROUPS = 2
# Caption files of a folder that are checked for several lines before training.
_LOOKED_AT = 10_000


class ImageSet(ABC):
    """A set of images whose samples are read by number."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples, including those that do not decode."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Sample `index`, still encoded.

        Raises:
            DatasetError: this sample cannot be read; others may be readable.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A text that changes when images are added, removed or renamed, or change their size."""


def open_image_set(path: Path, *, format: str | None = None, index_folder: Path) -> ImageSet:
    """Open the set at `path`.

    Args:
        path: a folder, or one shard (`.tar`), or one parquet file.
        format: one of `vlv.data.sets.FORMATS`; None is the format of the files at `path`.
        index_folder: keeps the places of samples in shards, so that shards are scanned only once.

    Raises:
        ConfigError: unknown format, or what it needs is not installed.
        DatasetError: nothing readable is there, it is damaged, or it holds no image.
    """
    format = format or detect_format(path)
    check_format(format)
    if format == "folder":
        images: ImageSet = FolderImages(path)
    elif format == "webdataset":
        images = ShardImages(files_of(path, format), index_folder)
    else:
        images = TableImages(files_of(path, format))
    if len(images) == 0:
        raise DatasetError(f"{path} holds no images ({', '.join(EXTENSIONS)})")
    return images


class FolderImages(ImageSet):
    """The images of a folder and its subfolders; captions as `vlv.data.folder` reads them."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DatasetError(f"there is no folder {folder}")
        self._folder = folder
        self._metadata = read_metadata(folder)
        self._names = image_names(folder, self._metadata)
        warn_of_several_lines(folder, several_lines(folder, self._names[:_LOOKED_AT]), stacklevel=4)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        name = self._names[index]
        return read_sample(self._folder, name, self._metadata.get(name, {}))

    @property
    def fingerprint(self) -> str:
        """A hash of the names and sizes of the images."""
        return set_hash(f"{name}\0{_size(self._folder / name)}" for name in self._names)


class ShardImages(ImageSet):
    """The samples of WebDataset shards, by their places in the archives.

    The places, (shard, first byte, end) of every sample, are in a file of `index_folder`. Its name
    holds a hash of the shards' paths, sizes and times, so other shards have another index.
    """

    def __init__(self, shards: list[Path], index_folder: Path) -> None:
        self._shards = shards
        states = [(str(path.resolve()), path.stat()) for path in shards]
        digest = set_hash(f"{name}\0{state.st_size}\0{state.st_mtime_ns}" for name, state in states)
        path = index_folder / f"{shards[0].resolve().parent.name}-{digest}.npy"
        with made_once(path) as missing:
            if missing:
                places = [place for number in range(len(shards)) for place in self._places(number)]
                if not places:
                    raise DatasetError(f"the shards in {shards[0].parent} hold no samples")
                with atomic_file(path) as unfinished, unfinished.open("wb") as file:
                    np.save(file, np.array(places, dtype=np.int64))
        self._index_file = path
        self._map()

    def _map(self) -> None:
        self._index: NDArray[np.int64] = np.load(self._index_file, mmap_mode="r")

    def __getstate__(self) -> dict[str, Any]:
        """Another process maps the index itself: pickling the array would copy its contents."""
        return {name: value for name, value in self.__dict__.items() if name != "_index"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    def _places(self, number: int) -> Iterator[tuple[int, int, int]]:
        """(number, first byte, end) of every sample of one shard; only headers are read."""
        path = self._shards[number]
        key: str | None = None
        count = start = end = 0
        for member in plain_members(path):
            _, stem = extension_and_key(member.name)
            if stem is None:
                continue
            if stem != key:
                if key is not None:
                    yield number, start, end
                key, start, count = stem, member.offset, count + 1
            end = member.start + -(-member.size // BLOCK) * BLOCK
        if key is not None:
            yield number, start, end
        check_complete(path, count)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Sample:
        number, start, end = (int(value) for value in self._index[index])
        path = self._shards[number]
        members: dict[str, bytes] = {}
        key = ""
        try:
            # Opened each time: processes that share an open file share its position.
            with path.open("rb") as file:
                for member in plain_members(path, start, end):
                    extension, stem = extension_and_key(member.name)
                    if stem is not None and extension in (*EXTENSIONS, ".txt", ".json"):
                        file.seek(member.start)
                        key, members[extension] = stem, file.read(member.size)
        except OSError as error:
            raise DatasetError(
                f"sample {index} of the shard {path} is damaged ({error})"
            ) from error
        return sample_of_members(path, key or f"number {index}", members)

    @property
    def fingerprint(self) -> str:
        """A hash of the shards' names and the places of their samples."""
        places = hashlib.sha256(np.ascontiguousarray(self._index).data).hexdigest()
        return set_hash([*(path.name for path in self._shards), places])


class TableImages(ImageSet):
    """The rows of parquet files.

    Reading a sample reads its whole row group: files with small groups, as `vlv.data.tables` writes
    them, are fast, and those with many thousands of rows in a group are slow.
    """

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._groups: list[tuple[Path, int, int]] = []  # file, group, first row
        rows: list[int] = []
        for path in files:
            first = 0
            for group, count in enumerate(_group_sizes(path)):
                self._groups.append((path, group, first))
                rows.append(count)
                first += count
        self._ends = list(accumulate(rows))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Sample:
        found = bisect_right(self._ends, index)
        path, group, first = self._groups[found]
        before = self._ends[found - 1] if found else 0
        table, caption = _row_group(path, group)
        row = index - before
        return sample_of_row(path, first + row, table, row, caption)

    @property
    def fingerprint(self) -> str:
        """A hash of the files' names and sizes and the numbers of their rows."""
        sizes = (f"{path.name}\0{_size(path)}" for path in self._files)
        return set_hash([*sizes, *map(str, self._ends)])


def _group_sizes(path: Path) -> list[int]:
    """Rows of each row group of a parquet file."""
    pa, pq = import_pyarrow()
    try:
        about = pq.ParquetFile(path).metadata
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} is damaged, or is no parquet file ({error})") from error
    return [about.row_group(number).num_rows for number in range(about.num_row_groups)]


@lru_cache(maxsize=_ROW_GROUPS)
def _row_group(path: Path, group: int) -> tuple[Any, str | None]:
    """A row group as a table of the columns that are read, and the caption column's name."""
    pa, pq = import_pyarrow()
    try:
        with pq.ParquetFile(path) as file:
            caption = caption_column(path, file.schema_arrow.names)
            columns = ["image", *([caption] if caption else [])]
            if holds_text(pa, file.schema_arrow, "meta"):
                columns.append("meta")
            # A library's threads do not survive the fork of a data loader's workers.
            return file.read_row_group(group, columns=columns, use_threads=False), caption
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"row group {group} of {path} is damaged ({error})") from error


def _size(path: Path) -> int:
    """The size of a file in bytes; -1 if it is unknown."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def set_hash(parts: Iterable[str]) -> str:
    """A short hash of texts, for fingerprints."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()[:16]
