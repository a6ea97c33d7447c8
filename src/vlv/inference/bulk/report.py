"""The results of a whole job, counted from its files on disk, not from progress messages.

Also writes the files that only a complete job can have.
"""

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Self, TextIO

from vlv.data.folder_metadata import METADATA, metadata_lines
from vlv.errors import DatasetError
from vlv.files import atomic_file, sha256_of, write_text
from vlv.inference.bulk.image_names import KEPT
from vlv.inference.bulk.job import Job
from vlv.inference.bulk.output import (
    GONE,
    OK,
    Mark,
    Record,
    caption_file,
    current_caption,
    has_lost_caption,
    is_failure,
    is_whole,
    lines_of_image,
    mark_of,
    records,
    target_name,
    unmark,
)
from vlv.inference.bulk.plan import gone_names, read_plan
from vlv.inference.caption_lists.metadata import captions_of_line
from vlv.inference.written import (
    ChangedMeanwhileError,
    FileState,
    Written,
    one_at_a_time,
    state_of,
)
from vlv.text import as_text, printable

# Holds the hash of metadata.jsonl as it was written.
_WRITTEN = "metadata.sha256"
# Fields of its lines that this program writes.
_OURS = {"file_name", "text", "texts"}
FAILED = "failed.jsonl"


@dataclass
class OutOfDistribution:
    """The number of out-of-distribution images, and the names of two."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count an image."""
        self.count += 1
        if self.count <= 2:
            self.names.append(name)


@dataclass(frozen=True)
class Report:
    """The number of images with each result: `ok`, `kept`, the reason of a failure, or `gone` for
    images that the source no longer holds; and the images with a caption that are out of
    distribution, as far as the model knows.
    """

    counts: Counter[str]
    out_of_distribution: OutOfDistribution

    @property
    def images(self) -> int:
        """The number of images in the source."""
        return self.counts.total() - self.counts[GONE]

    @property
    def failed(self) -> Counter[str]:
        """Failures by reason."""
        return Counter({one: count for one, count in self.counts.items() if is_failure(one)})


def close(job: Job, gone: Collection[int], *, keep_edited: bool = True) -> Report:
    """Count the results of a finished job. Write failed.jsonl and, if the format has it,
    metadata.jsonl.

    Args:
        job: the job.
        gone: numbers of shards whose files are gone from the source.
        keep_edited: keep lines of metadata.jsonl that somebody has edited, before or while it is
            written.

    Raises:
        DatasetError: the files on disk do not match; the next run repairs them.
    """
    if job.output_format not in ("jsonl", "folder"):
        return _closed(job, gone, None)
    path = job.target / METADATA
    with one_at_a_time(path):
        while True:
            before = state_of(path)
            try:
                return _closed(job, gone, edited_metadata(job) if keep_edited else None, before)
            except ChangedMeanwhileError:
                continue


def _closed(
    job: Job,
    gone: Collection[int],
    edited: "Edited | None",
    before: FileState | None = None,
) -> Report:
    counts, out_of_distribution = Counter[str](), OutOfDistribution()
    missing = _Ahead(gone_names(job.folder))
    has_metadata = job.output_format in ("jsonl", "folder")
    with ExitStack() as files:
        failed = _opened(files, job.folder / FAILED)
        metadata = files.enter_context(_Metadata.opened(job, edited)) if has_metadata else None
        for shard in read_plan(job.folder):
            mark = mark_of(job, shard.number)
            if shard.number in gone:
                counts[GONE] += mark.counts.total() if mark else 0
                if metadata is not None and mark is not None and is_whole(job, mark):
                    metadata.write(list(_lines_of_gone(job, records(job, shard))))
            elif mark is None:
                raise DatasetError(
                    f"shard {shard.number} of {job.target} is not done; run the job again"
                )
            else:
                counts += _add(job, mark, _Out(failed, metadata), out_of_distribution, missing)
        if metadata is not None:
            metadata.finish()
            if state_of(job.target / METADATA) != before:
                raise ChangedMeanwhileError
    return Report(counts, out_of_distribution)


class Edited:
    """What somebody has added to a metadata.jsonl, by file name: lines with another caption, and
    fields beside captions.
    """

    def __init__(self, job: Job) -> None:
        path = job.target / METADATA
        self.written = Written(job.target)
        self._lines: dict[str, Record] = {}
        where = f"{path}, which was changed by hand,"
        for name, entry in metadata_lines(path.read_bytes(), where, job.target):
            self._lines.pop(name, None)  # an image's last line counts
            texts = captions_of_line(entry)
            if texts == "" or self.written.is_ours(_key(name), texts):
                entry = {field: entry[field] for field in entry.keys() - _OURS}
            if entry:
                self._lines[name] = entry

    def line(self, name: str, ours: Record) -> Record:
        """The line of an image: the edited one, or ours with the fields that somebody added."""
        theirs = self._lines.pop(name, {})
        if theirs.keys() & _OURS:
            return {**theirs, "file_name": ours["file_name"]}
        return {**ours, **theirs}

    def drop(self, name: str) -> None:
        """Drop the line of an image that is gone."""
        self._lines.pop(name, None)

    def rest(self) -> Iterator[Record]:
        """Lines of images that are not in the job."""
        return ({"file_name": name, **one} for name, one in self._lines.items())


def _key(name: str) -> str:
    """The name of an image's captions in the record, as `MetadataFile` notes it."""
    return f"{METADATA}/{name}"


class _Metadata:
    """A new metadata.jsonl, and notes of the lines that this program wrote."""

    def __init__(self, job: Job, edited: Edited | None, file: TextIO, notes: TextIO) -> None:
        self._job = job
        self._edited = edited
        self._file = file
        self._notes = notes
        # Whether this program wrote all of it.
        self._is_ours = True

    @classmethod
    @contextmanager
    def opened(cls, job: Job, edited: Edited | None) -> Iterator[Self]:
        """Replaces the existing file when the block ends without an error."""
        with (
            TemporaryFile("w+", dir=job.folder, encoding="ascii") as notes,
            atomic_file(job.target / METADATA) as unfinished,
            open(unfinished, "w", encoding="ascii") as file,
        ):
            yield cls(job, edited, file, notes)

    def write(self, lines: Sequence[Record]) -> None:
        """Write the job's lines of images, or the edited lines in their place."""
        noted = {}
        for line in lines:
            name = as_text(line["file_name"])
            new = line if self._edited is None else self._edited.line(name, line)
            self._is_ours &= new == line
            self._file.write(json.dumps(new) + "\n")
            if captions_of_line(new) == captions_of_line(line):
                noted[_key(name)] = captions_of_line(line)
        self._notes.write(json.dumps(list(noted.items())) + "\n")

    def drop(self, name: str) -> None:
        """Drop the line of an image that is gone."""
        if self._edited is not None:
            self._edited.drop(as_text(name))

    def finish(self) -> None:
        """Write the lines of images that are not in the job, and record this program's lines before
        the file appears, so that later changes count as edits.
        """
        for line in self._edited.rest() if self._edited else ():
            self._file.write(json.dumps(line) + "\n")
            self._is_ours = False
        self._file.flush()
        os.fsync(self._file.fileno())
        digest = sha256_of(Path(self._file.name)) + "\n"
        if self._is_ours and digest == _hash_as_written(self._job):
            return
        written = Written(self._job.target) if self._edited is None else self._edited.written
        self._notes.seek(0)
        noted = 0
        for notes in self._notes:
            captions = json.loads(notes)
            written.note(captions)
            noted += len(captions)
        if written.count_lines() > noted * lines_of_image(self._job):  # else it need not be read
            written.compact()
        if self._is_ours:
            write_text(self._job.folder / _WRITTEN, digest)
        else:  # the next run must inspect each line
            (self._job.folder / _WRITTEN).unlink(missing_ok=True)


def _hash_as_written(job: Job) -> str:
    written = job.folder / _WRITTEN
    return written.read_text("ascii", "replace") if written.exists() else ""


def edited_metadata(job: Job) -> Edited | None:
    """The edits in the job's metadata.jsonl; None if there are none.

    Raises:
        DatasetError: it cannot be read.
    """
    if job.output_format not in ("jsonl", "folder") or not (job.target / METADATA).exists():
        return None
    return None if _hash_as_written(job) == sha256_of(job.target / METADATA) + "\n" else Edited(job)


class _Ahead:
    """Names in the same order as the names that are looked up."""

    def __init__(self, names: Iterator[str]) -> None:
        self._names = names
        self._next = next(names, None)

    def has(self, name: str) -> bool:
        """Whether `name` is one of them."""
        if name != self._next:
            return False
        self._next = next(self._names, None)
        return True


def _opened(files: ExitStack, path: Path) -> TextIO:
    unfinished = files.enter_context(atomic_file(path))
    return files.enter_context(open(unfinished, "w", encoding="ascii"))


@dataclass(frozen=True)
class _Out:
    failed: TextIO
    metadata: _Metadata | None


def _add(
    job: Job, mark: Mark, out: _Out, out_of_distribution: OutOfDistribution, gone: _Ahead
) -> Counter[str]:
    """Add a shard's lines to the files. Returns the counts of results."""
    counts: Counter[str] = Counter()
    written: Counter[str] = Counter()
    lines: list[Record] = []
    lost = None
    shard = mark.shard
    for record in records(job, shard):
        name, status = record["file_name"], record["status"]
        written[status] += 1
        is_gone = gone.has(name)
        counts[GONE if is_gone else status] += 1
        if is_gone:
            if out.metadata is not None:
                kept = list(_lines_of_gone(job, [record]))
                lines += kept
                if not kept:
                    out.metadata.drop(name)
            continue
        if record.get("in_distribution", record.get("familiar")) is False:
            out_of_distribution.add(printable(name))
        if is_failure(status):
            out.failed.write(json.dumps({**record, "file_name": as_text(name)}) + "\n")
        elif has_lost_caption(job, record):
            lost = caption_file(job, name)
        elif out.metadata is not None and status in (OK, KEPT):
            lines.append(_metadata_line(job, record))
    if out.metadata is not None:
        out.metadata.write(lines)
    if lost is not None or written != mark.counts:
        unmark(job, shard)
        what = f"{printable(lost)} holds no caption" if lost else "its lines and counts differ"
        raise DatasetError(
            f"shard {shard.number} of {job.target} is damaged: {what}; run the job again to redo it"
        )
    return counts


def _lines_of_gone(job: Job, gone: Iterable[Record]) -> Iterator[Record]:
    """The lines of images that the source has lost. Those that the target holds stay in it."""
    for record in gone:
        in_target = job.images_needed and record["status"] in (OK, KEPT)
        if in_target and not has_lost_caption(job, record):
            yield _metadata_line(job, record)


def _metadata_line(job: Job, record: Record) -> Record:
    """The line of an image. A caption file may have been corrected by hand, so its text is used."""
    texts = record.get("texts") or [record.get("text", "")]
    if job.has_caption_files:
        texts = current_caption(job, record["file_name"])
    line: Record = {"file_name": target_name(job, record["file_name"]), "text": texts[0]}
    return line | ({"texts": texts} if len(texts) > 1 else {})
