"""Makes the index of a set: looks through its shards, in several processes where there are many.

What is found out about a shard is kept in the index folder (`shards/`), so that a command that was
stopped goes on with the next shard, and a set of which one shard changed is looked through there
alone. A damaged shard or sample is left out, named and counted; it stops nothing else.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from vlv.data.images import EXTENSIONS
from vlv.data.remote.locations import RemoteFile, SetFile, asked_of_each, on_disk
from vlv.data.remote.samples import stats_of
from vlv.data.remote.store import StoreError
from vlv.data.remote.tables import footer
from vlv.data.set_index import (
    ENTRY,
    IndexRecord,
    Problem,
    SetIndex,
    ShardRecord,
    full_name,
    index_path,
    read_index,
    record_path,
    set_hash,
    shards_fingerprint,
    state_of,
)
from vlv.data.shards import check_complete, extension_and_key, problem_of
from vlv.data.tars import BLOCK, Gap, Member, read_members
from vlv.errors import DatasetError
from vlv.files import atomic_file, atomic_large_file, awaited_lock, write_text
from vlv.text import counted, printable

logger = logging.getLogger(__name__)

Watch = Callable[[Iterable[ShardRecord]], Iterable[ShardRecord]]
_LARGEST = 2**32 - 1
# Problems that are logged one by one.
_NAMED = 20


def open_index(
    files: Sequence[SetFile],
    folder: Path,
    *,
    workers: int = 1,
    watch: Watch = iter,
) -> SetIndex:
    """The index of shards or tables, made first where there is none of their present state. Of
    several processes that ask for it, one makes it.

    Args:
        files: shards (.tar) or parquet files, all of one kind.
        folder: of the index.
        workers: processes that look through shards.
        watch: is given the records of the shards, in order, as they come.

    Raises:
        DatasetError: no shard has a sample, or the index cannot be written.
        ConfigError: what reads the files is not installed.
    """
    path = index_path(folder, files)
    if not (path.is_file() and record_path(path).is_file()):
        folder.mkdir(parents=True, exist_ok=True)
        with awaited_lock(path.with_suffix(".lock"), path):
            if not (path.is_file() and record_path(path).is_file()):
                _make(path, files, workers, watch)
    index = read_index(path)
    _report(index.record)
    return index


def _make(path: Path, files: Sequence[SetFile], workers: int, watch: Watch) -> None:
    parts = path.parent / "shards"
    parts.mkdir(exist_ok=True)
    records = list(watch(_look_through(files, parts, workers)))
    total = sum(int(np.load(_part(parts, file))["entries"].size) for file in files)
    if not total:
        problems = [problem.message for record in records for problem in record.problems]
        raise DatasetError(
            f"no sample is in {counted(len(files), 'shard')} from {files[0]} on"
            + (f" (the first problem: {problems[0]})" if problems else "")
        )
    try:
        with atomic_large_file(path) as unfinished:
            _join(unfinished, [_part(parts, file) for file in files], total)
            entries = np.load(unfinished, mmap_mode="r")
            fingerprint = _fingerprint(files, entries)
            del entries
        record = IndexRecord(fingerprint=fingerprint, shards=records)
        write_text(record_path(path), record.model_dump_json() + "\n")
    except OSError as error:
        raise DatasetError(
            f"the index {path} cannot be written ({error.strerror}); free some space, or name "
            "another folder (data.index_folder)"
        ) from error


def _join(path: Path, parts: Sequence[Path], total: int) -> None:
    """Write the entries of all shards as one array, never more than a shard's in memory."""
    header = {
        "descr": np.lib.format.dtype_to_descr(ENTRY),
        "fortran_order": False,
        "shape": (total,),
    }
    with open(path, "wb") as out:
        np.lib.format.write_array_header_1_0(out, header)
        for number, part in enumerate(parts):
            entries = np.load(part)["entries"]
            entries["shard"] = number
            out.write(entries.tobytes())


def _look_through(files: Sequence[SetFile], parts: Path, workers: int) -> Iterator[ShardRecord]:
    if _is_table(files[0]):  # of which only the ends are read
        in_store = any(isinstance(file, RemoteFile) for file in files)
        yield from asked_of_each(partial(_look_at, parts), files, in_store=in_store)
        return
    if workers <= 1 or len(files) == 1:
        yield from map(partial(_look_at, parts), files)
        return
    # A library's threads do not survive a fork.
    pool = ProcessPoolExecutor(min(workers, len(files)), mp_context=get_context("spawn"))
    try:
        yield from pool.map(partial(_look_at, parts), files)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _look_at(parts: Path, file: SetFile) -> ShardRecord:
    """The record of a shard; its entries are in a file of `parts` then."""
    part = _part(parts, file)
    if (before := _read_part(part)) is not None:
        return before
    is_table = _is_table(file)
    try:
        entries, problems = _rows(file) if is_table else _members(file)
    except StoreError:
        raise
    except DatasetError as error:
        # A permission or a disk may be the reason: an index without the shard would stay in use.
        if isinstance(error.__cause__, OSError) and error.__cause__.errno is not None:
            raise DatasetError(f"{error}; make it readable, or name the other shards") from error
        entries, problems = np.empty(0, ENTRY), [_problem("", str(error))]
    samples = int(entries["size"].sum()) if is_table else len(entries)
    name = printable(str(file))
    record = ShardRecord(name=name, state=state_of(file), samples=samples, problems=problems)
    with atomic_file(part) as unfinished, open(unfinished, "wb") as out:
        np.savez(out, entries=entries, record=np.array(record.model_dump_json()))
    return record


def _is_table(file: SetFile) -> bool:
    return file.suffix.lower() == ".parquet"


def _read_part(part: Path) -> ShardRecord | None:
    """What was found out before; a shard that could not be read at all is looked at again."""
    with suppress(OSError, ValueError, KeyError, EOFError, BadZipFile):
        record = ShardRecord.model_validate_json(str(np.load(part)["record"]))
        if record.samples or not record.problems:
            return record
    return None


def _part(parts: Path, file: SetFile) -> Path:
    return parts / f"{set_hash([full_name(file), state_of(file)])}.npz"


def _rows(file: SetFile) -> tuple[NDArray[Any], list[Problem]]:
    """The row groups of a table."""
    about, _ = footer(file)
    groups = [(0, n, about.row_group(n).num_rows) for n in range(about.num_row_groups)]
    return np.array(groups, ENTRY), []


def _members(file: SetFile) -> tuple[NDArray[Any], list[Problem]]:
    """The samples of a shard; only headers are read.

    Raises:
        DatasetError: nothing of it can be read.
    """
    with on_disk(file) as path:
        walk = _Samples(str(file))
        for member in read_members(path):
            walk.add(member)
        walk.end()
        if not walk.problems:
            try:
                check_complete(path, len(walk.entries), stats_of(file))
            except DatasetError as error:
                walk.problems.append(_problem("", str(error)))
    return np.array(walk.entries, ENTRY), walk.problems


class _Samples:
    """Groups the members of a shard into samples, and leaves out what is damaged."""

    def __init__(self, shard: str) -> None:
        self.problems: list[Problem] = []
        self._found: list[tuple[int, int, int]] = []
        self._removed: set[int] = set()
        # Of each name, the place of its last sample in `_found`; None where that has no image.
        self._last: dict[str, int | None] = {}
        self._shard = shard
        self._key: str | None = None
        self._start = self._end = 0
        self._fault: str | None = None
        self._has_image = False
        self._after_gap = False
        # The sample that a damaged part cuts in two.
        self._cut: str | None = None

    @property
    def entries(self) -> list[tuple[int, int, int]]:
        """Where the whole samples are."""
        return [one for place, one in enumerate(self._found) if place not in self._removed]

    def add(self, member: Member | Gap) -> None:
        """The next member, or a damaged part."""
        if isinstance(member, Gap):
            self._cut = self._key
            self.end()
            self._after_gap = True
            self._leave_out(
                f"damaged-{len(self.problems) + 1}",
                f"the shard {self._shard} is damaged at byte {member.offset}; samples there are "
                "lost; fetch or write it again",
            )
            return
        extension, key = extension_and_key(member.name)
        if member.is_folder or key is None:
            return
        if key != self._key:
            self.end()
            self._key, self._start = key, member.offset
        if extension in EXTENSIONS:
            self._has_image = True
        if self._fault is None and (problem := problem_of(member)):
            self._fault = f"{member.name!r} in the shard {self._shard} {problem}; remove it"
        self._end = member.start + -(-member.size // BLOCK) * BLOCK

    def end(self) -> None:
        """The members so far are all of the last sample."""
        if self._key is None:
            return
        where = f"the sample {self._key} in the shard {self._shard}"
        if self._after_gap and (self._key == self._cut or not self._has_image):
            self._leave_out(self._key, f"{where} has lost a part by the damage before it")
        elif self._fault is not None:
            self._leave_out(self._key, self._fault)
        elif self._drop_pieces(self._key):
            self._leave_out(
                self._key,
                f"the members of {where} are not next to each other; write the set anew with "
                "vlv data convert",
            )
        elif not self._has_image:
            self._last[self._key] = None
            self._leave_out(self._key, f"{where} has no image")
        elif self._end - self._start > _LARGEST:
            self._leave_out(self._key, f"{where} has more than 4 GiB; remove it")
        else:
            self._last[self._key] = len(self._found)
            self._found.append((0, self._start, self._end - self._start))
        self._key, self._fault, self._has_image, self._after_gap = None, None, False, False

    def _drop_pieces(self, key: str) -> bool:
        """Drop what was taken for a sample whose image and caption lie apart; whether they do. In
        archives that were joined, two whole samples may have one name.
        """
        before = self._last.get(key)
        if key not in self._last or (self._has_image and before is not None):
            return False
        if before is not None:
            self._removed.add(before)
        self._last[key] = None
        return True

    def _leave_out(self, key: str, message: str) -> None:
        self.problems.append(_problem(key, message))


def _problem(key: str, message: str) -> Problem:
    """With names that JSON can hold: those of files and members may be no text."""
    return Problem(key=printable(key), message=printable(message))


def _fingerprint(files: Sequence[SetFile], entries: NDArray[Any]) -> str:
    if not _is_table(files[0]):
        return shards_fingerprint([file.name for file in files], entries)
    sizes = (f"{file.name}\0{state_of(file).partition('-')[0]}" for file in files)
    return set_hash([*sizes, *map(str, np.cumsum(entries["size"], dtype=np.int64))])


def _report(record: IndexRecord) -> None:
    problems = record.problems
    for _, problem in problems[:_NAMED]:
        logger.warning("left out: %s", problem.message)
    if problems:
        whole = sum(not shard.samples for shard in record.shards)
        logger.warning(
            "the set has %s, %d of its %s have no sample; vlv data index names them all",
            counted(len(problems), "damaged place"),
            whole,
            counted(len(record.shards), "shard"),
        )
