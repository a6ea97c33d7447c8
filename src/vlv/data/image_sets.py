"""Sets of images on disk by number: what training needs, where reading in order is not enough.

The number of a sample is a function of the set alone: files of a folder in the order of their
paths, shards and tables in the order of their names and then of what they hold. Knows the three
layouts of `vlv.data.sets`; decodes no image and knows nothing of training.
"""

import hashlib
import json
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlv.data.folder import (
    caption_file,
    image_names,
    read_sample,
    several_lines,
    warn_of_several_lines,
    warn_of_shared_captions,
)
from vlv.data.folder_metadata import CAPTION_FIELDS, read_metadata
from vlv.data.images import EXTENSIONS
from vlv.data.indexing import open_index
from vlv.data.remote.ahead import fetch_ahead
from vlv.data.remote.locations import SetFile, on_disk, shown_name
from vlv.data.samples import Sample
from vlv.data.set_index import SetIndex, ShardRecord, set_hash
from vlv.data.sets import check_format, detect_format, files_of, folder_of
from vlv.data.shards import extension_and_key, plain_members, sample_of_members
from vlv.data.tables import Columns, columns_of, holds_text, import_pyarrow, sample_of_row
from vlv.errors import DatasetError
from vlv.progress import ProgressBar
from vlv.text import counted

logger = logging.getLogger(__name__)

# Row groups that a process holds. Samples come in random order, so more would seldom help.
_ROW_GROUPS = 2
# Caption files of a folder that are read before training: more would make each start slow.
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

    shard_sizes: NDArray[np.int64] | None = None
    """The numbers of samples of its shards or tables, in order; None for a folder."""
    is_remote = False
    """Whether some of it lies in an object store."""

    def fetch_ahead(self, index: int) -> None:  # noqa: B027
        """Begin to fetch what sample `index` lies in, which will be needed."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A text that changes when images are added, removed or renamed, or change their size.

        The same for a copy of the set, so that times of files cannot count. An image replaced by
        one of the same size in bytes is not noticed: that would take reading the whole set before
        each start, and a sample of the images would seldom hold the one that was replaced.
        """

    @property
    def captions_fingerprint(self) -> str | None:
        """A text that changes when captions do that `fingerprint` does not notice; None where it
        notices as much of captions as of images.
        """
        return None


def open_image_set(path: Path, *, format: str | None = None, index_folder: Path) -> ImageSet:
    """Open the set at `path`.

    Args:
        path: a folder, or one shard (`.tar`), or one parquet file, or a pattern of these files.
        format: one of `vlv.data.sets.FORMATS`; None is the format of the files at `path`.
        index_folder: keeps the places of samples in shards, so that shards are scanned only once.

    Raises:
        ConfigError: unknown format, or what it needs is not installed.
        DatasetError: nothing readable is there, or it holds no image. What is damaged is left out
            and logged.
    """
    format = format or detect_format(path)
    check_format(format)
    if format == "folder":
        images: ImageSet = FolderImages(folder_of(path))
    else:
        files = files_of(path, format)
        kind = ShardImages if format == "webdataset" else TableImages
        images = kind(files, _index_of(files, index_folder))
    if len(images) == 0:
        raise DatasetError(f"{shown_name(path)} holds no images ({', '.join(EXTENSIONS)})")
    return images


def _index_of(files: list[SetFile], folder: Path) -> SetIndex:
    """The index, which takes long where it is made here, and says so."""

    def watch(records: Iterable[ShardRecord]) -> Iterable[ShardRecord]:
        logger.info("indexing %s, once, into %s", counted(len(files), "shard"), folder)
        return ProgressBar(
            records, total=len(files), unit="shard", description="index", say=logger.info
        )

    return open_index(files, folder, watch=watch)


class FolderImages(ImageSet):
    """The images of a folder and its subfolders; captions as `vlv.data.folder` reads them."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DatasetError(f"there is no folder {folder}")
        self._folder = folder
        self._metadata = read_metadata(folder)
        self._names = image_names(folder, self._metadata)
        warn_of_shared_captions(folder, self._names, stacklevel=4)
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

    @property
    def captions_fingerprint(self) -> str:
        """A hash of the captions in metadata files, of the first `_LOOKED_AT` caption files, and of
        the sizes of the others.
        """
        return set_hash(
            f"{name}\0{self._caption_in_metadata(name)}\0{self._caption_file(number, name)}"
            for number, name in enumerate(self._names)
        )

    def _caption_in_metadata(self, name: str) -> str:
        entry = self._metadata.get(name, {})
        found = {field: entry[field] for field in CAPTION_FIELDS if field in entry}
        return json.dumps(found) if found else ""

    def _caption_file(self, number: int, name: str) -> str:
        file = caption_file(self._folder / name)
        try:
            if number >= _LOOKED_AT:
                return str(os.stat(file).st_size)
            return hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError:
            return ""  # there is none; one that cannot be read is reported with its image


class ShardImages(ImageSet):
    """The samples of WebDataset shards, by their places in the archives."""

    def __init__(self, shards: list[SetFile], index: SetIndex) -> None:
        self._shards = shards
        self._index = index
        self.shard_sizes = index.sizes
        self.is_remote = any(not isinstance(shard, Path) for shard in shards)

    def __len__(self) -> int:
        return len(self._index.entries)

    def __getitem__(self, index: int) -> Sample:
        number, start, size = (int(value) for value in self._index.entries[index])
        members: dict[str, bytes] = {}
        key = ""
        with on_disk(self._shards[number]) as path:
            try:
                # Opened each time: processes that share an open file share its position.
                with path.open("rb") as file:
                    for member in plain_members(path, start, start + size):
                        extension, stem = extension_and_key(member.name)
                        if stem is not None and extension in (*EXTENSIONS, ".txt", ".json"):
                            file.seek(member.start)
                            key, members[extension] = stem, file.read(member.size)
            except OSError as error:
                raise DatasetError(
                    f"sample {index} of the shard {path} is damaged ({error})"
                ) from error
            return sample_of_members(path, key or f"number {index}", members)

    def fetch_ahead(self, index: int) -> None:
        """Begin to fetch the sample's shard."""
        fetch_ahead(self._shards[int(self._index.entries["shard"][index])])

    @property
    def fingerprint(self) -> str:
        """A hash of the shards' names and the places of their samples."""
        return self._index.record.fingerprint


class TableImages(ImageSet):
    """The rows of parquet files.

    Reading a sample reads its whole row group: files with small groups, as `vlv.data.tables` writes
    them, are fast, and those with many thousands of rows in a group are slow.
    """

    def __init__(self, files: list[SetFile], index: SetIndex) -> None:
        self._files = files
        self._index = index
        self.shard_sizes = index.sizes
        self.is_remote = any(not isinstance(file, Path) for file in files)
        # The samples up to the end of each row group, and those before each file.
        self._ends = np.cumsum(index.entries["size"], dtype=np.int64)
        self._before = np.cumsum(index.sizes) - index.sizes

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Sample:
        found = int(np.searchsorted(self._ends, index, side="right"))
        number, group, _ = (int(value) for value in self._index.entries[found])
        start = int(self._ends[found - 1]) if found else 0
        with on_disk(self._files[number]) as path:
            table, columns = _row_group(path, group)
            row = index - int(self._before[number])
            return sample_of_row(path, row, table, index - start, columns)

    def fetch_ahead(self, index: int) -> None:
        """Begin to fetch the sample's file."""
        fetch_ahead(self._files[int(np.searchsorted(self._before, index, side="right")) - 1])

    @property
    def fingerprint(self) -> str:
        """A hash of the files' names and sizes and the numbers of their rows."""
        return self._index.record.fingerprint


@lru_cache(maxsize=_ROW_GROUPS)
def _row_group(path: Path, group: int) -> tuple[Any, Columns]:
    """A row group as a table of what is read, and the columns of images and captions."""
    pa, pq = import_pyarrow()
    try:
        with pq.ParquetFile(path) as file:
            found = columns_of(path, file.schema_arrow.names)
            columns = found.names
            if holds_text(pa, file.schema_arrow, "meta"):
                columns.append("meta")
            # A library's threads do not survive the fork of a data loader's workers.
            return file.read_row_group(group, columns=columns, use_threads=False), found
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"row group {group} of {path} is damaged ({error})") from error


def _size(path: Path) -> int:
    """The size of a file in bytes; -1 if it is unknown."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
