"""The index of a set's shards or tables: where each sample lies, in one mapped file.

`vlv.data.indexing` makes it. An index is two files of the index folder, with one name that holds a
hash of the shards and their states, so that changed shards have another index:

    NAME.npy     an entry of 16 bytes for each sample of shards, or for each row group of tables
    NAME.json    the shards, how many samples each has, and what was left out

What is mapped takes no memory of the process, however many samples there are.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from vlv.data.remote.locations import RemoteFile, SetFile
from vlv.errors import DatasetError

ENTRY = np.dtype([("shard", "<u4"), ("start", "<u8"), ("size", "<u4")])
"""An entry: the shard's number in the set; the first byte of a sample and how many there are, or
the number of a row group and its rows.
"""
_HASHED = 1 << 13


class Problem(BaseModel):
    """A sample or a part of a shard that is left out; or, without a key, a whole shard."""

    key: str
    message: str


class ShardRecord(BaseModel):
    """A shard in an index."""

    name: str
    state: str
    samples: int
    problems: list[Problem] = []


class IndexRecord(BaseModel):
    """The content of NAME.json."""

    model_config = ConfigDict(extra="forbid")

    version: int = 1
    fingerprint: str
    shards: list[ShardRecord]

    @property
    def problems(self) -> list[tuple[ShardRecord, Problem]]:
        """All problems, in the order of the shards."""
        return [(shard, problem) for shard in self.shards for problem in shard.problems]


@dataclass
class SetIndex:
    """A finished index; another process that gets a copy maps the file itself."""

    path: Path
    record: IndexRecord

    def __post_init__(self) -> None:
        try:
            self.entries: NDArray[Any] = np.load(self.path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"the index {self.path} is damaged ({error}); remove it, it is made again"
            ) from error
        counts = [shard.samples for shard in self.record.shards]
        self.sizes: NDArray[np.int64] = np.array(counts, dtype=np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "entries"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()


def record_path(index: Path) -> Path:
    """The file that names the shards of an index."""
    return index.with_suffix(".json")


def read_index(path: Path) -> SetIndex:
    """Raises DatasetError where it is damaged."""
    try:
        record = IndexRecord.model_validate_json(record_path(path).read_bytes())
    except (OSError, ValidationError) as error:
        raise DatasetError(
            f"{record_path(path)} is damaged, or of another version; remove it, it is made again"
        ) from error
    return SetIndex(path, record)


def state_of(file: SetFile) -> str:
    """A text that changes when a file does."""
    if isinstance(file, RemoteFile):
        return f"{file.size}-{file.version}"
    try:
        state = file.stat()
    except OSError as error:
        raise DatasetError(f"{file} cannot be read ({error.strerror})") from error
    return f"{state.st_size}-{state.st_mtime_ns}"


def full_name(file: SetFile) -> str:
    """The name of a file that it has from everywhere on this machine, without keys."""
    return str(file) if isinstance(file, RemoteFile) else str(file.resolve())


def index_path(folder: Path, files: Sequence[SetFile]) -> Path:
    """Where the index of these files is, in their present state."""
    states = (f"{full_name(file)}\0{state_of(file)}" for file in files)
    parent = Path(full_name(files[0])).parent.name or "set"
    return folder / f"{parent}-{set_hash(['2', *states])}.npy"


def shards_fingerprint(names: Iterable[str], entries: NDArray[Any]) -> str:
    """A hash of the shards' names and the places of their samples."""
    digest = hashlib.sha256()
    for at in range(0, len(entries), _HASHED):
        some = entries[at : at + _HASHED]
        places = np.empty((len(some), 3), dtype="<i8")
        places[:, 0], places[:, 1] = some["shard"], some["start"]
        places[:, 2] = some["start"] + some["size"]
        digest.update(places.data)
    return set_hash([*names, digest.hexdigest()])


def set_hash(parts: Iterable[str]) -> str:
    """A short hash of texts, for fingerprints."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()[:16]
