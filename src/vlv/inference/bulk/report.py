"""What a job amounts to, counted from what lies on the disk and not from what was said on the way.

Also writes the files that only a complete job can have.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from vlv.data.samples import parse_object, parse_text
from vlv.errors import DatasetError
from vlv.files import atomic_file
from vlv.inference.bulk.job import Job
from vlv.inference.bulk.output import (
    GONE,
    KEPT,
    OK,
    Mark,
    Record,
    as_text,
    caption_file,
    current_caption,
    is_failure,
    mark_of,
    records,
    target_name,
    unmark,
)
from vlv.inference.bulk.plan import gone_names, read_plan
from vlv.inference.caption_files import METADATA
from vlv.inference.written import Written, one_at_a_time
from vlv.text import printable

# The hash of metadata.jsonl as it was written.
_WRITTEN = "metadata.sha256"
FAILED = "failed.jsonl"


@dataclass
class OutOfDistribution:
    """How many images are unlike those that the model was trained on, and the names of two."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """One more."""
        self.count += 1
        if self.count <= 2:
            self.names.append(name)


@dataclass(frozen=True)
class Report:
    """How many images came to what: `ok`, `kept`, or the reason of a failure, and `gone` for those
    that the source no longer holds; and which of those with a caption are out of distribution, as
    far as the model knows.
    """

    counts: Counter[str]
    out_of_distribution: OutOfDistribution

    @property
    def images(self) -> int:
        """All that the source holds."""
        return self.counts.total() - self.counts[GONE]

    @property
    def failed(self) -> Counter[str]:
        """Failures by reason."""
        return Counter({one: count for one, count in self.counts.items() if is_failure(one)})


def close(job: Job, gone: Collection[int], *, keep_edited: bool = True) -> Report:
    """Count a finished job and write failed.jsonl, and metadata.jsonl where the format has it.

    Args:
        job: the job.
        gone: numbers of shards whose files the source no longer holds.
        keep_edited: lines of metadata.jsonl that somebody has changed stay, and those that are
            changed while it is written.

    Raises:
        DatasetError: what lies on the disk does not add up; the next run mends it.
    """
    if job.output_format not in ("jsonl", "folder"):
        return _closed(job, gone, None)
    path = job.target / METADATA
    with one_at_a_time(path):
        while True:
            before = _state(path)
            try:
                made = _closed(job, gone, edited_metadata(job) if keep_edited else None, before)
            except _ChangedMeanwhile:
                continue
            note_metadata(job)
            return made


class _ChangedMeanwhile(Exception):
    """Somebody has written metadata.jsonl since it was read."""


def _state(path: Path) -> tuple[int, int, int] | None:
    """What tells whether a file was written again; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _closed(
    job: Job,
    gone: Collection[int],
    edited: "Edited | None",
    before: tuple[int, int, int] | None = None,
) -> Report:
    counts, out_of_distribution = Counter[str](), OutOfDistribution()
    missing = _Ahead(gone_names(job.folder))
    has_metadata = job.output_format in ("jsonl", "folder")
    with ExitStack() as files:
        failed = _opened(files, job.folder / FAILED)
        metadata = _opened(files, job.target / METADATA) if has_metadata else None
        for shard in read_plan(job.folder):
            mark = mark_of(job, shard.number)
            if shard.number in gone:
                counts[GONE] += mark.counts.total() if mark else 0
            elif mark is None:
                raise DatasetError(
                    f"shard {shard.number} of {job.target} is not done; run the job again"
                )
            else:
                out = _Out(failed, metadata, edited)
                counts += _add(job, mark, out, out_of_distribution, missing)
        if metadata is not None and edited is not None:
            for line in edited.rest():
                metadata.write(line)
        if has_metadata and _state(job.target / METADATA) != before:
            raise _ChangedMeanwhile
    return Report(counts, out_of_distribution)


def note_metadata(job: Job) -> None:
    """Remember what metadata.jsonl was as it was written, so that later changes are somebody's."""
    with atomic_file(job.folder / _WRITTEN) as unfinished:
        unfinished.write_text(_hash_of_metadata(job), encoding="ascii")


def _hash_of_metadata(job: Job) -> str:
    with open(job.target / METADATA, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() + "\n"


class Edited:
    """The lines of a metadata.jsonl that is not as this program wrote it, by file name."""

    def __init__(self, job: Job) -> None:
        path = job.target / METADATA
        ours = Written(job.target)
        self._lines: dict[str, dict[str, Any]] = {}
        text = parse_text(path.read_bytes(), str(path))
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                entry = parse_object(line, f"line {number} of {path}, which was changed by hand,")
                name = str(entry.get("file_name"))
                texts = entry.get("texts") or [entry.get("text")]
                if not ours.is_ours(f"{METADATA}/{name}", "\n".join(map(str, texts))):
                    self._lines[name] = entry

    def line(self, name: str, ours: str) -> str:
        """The line of an image: somebody's own, or else ours."""
        theirs = self._lines.pop(name, None)
        return ours if theirs is None else json.dumps(theirs) + "\n"

    def drop(self, name: str) -> None:
        """An image that is no longer there has no line."""
        self._lines.pop(name, None)

    def rest(self) -> Iterator[str]:
        """Lines of what the job does not know."""
        return (json.dumps(one) + "\n" for one in self._lines.values())


def edited_metadata(job: Job) -> Edited | None:
    """What somebody has changed in the job's metadata.jsonl, if anybody has.

    Raises:
        DatasetError: it cannot be read.
    """
    written = job.folder / _WRITTEN
    if job.output_format not in ("jsonl", "folder") or not (job.target / METADATA).exists():
        return None
    known = written.read_text("ascii", "replace") if written.exists() else ""
    return None if known == _hash_of_metadata(job) else Edited(job)


class _Ahead:
    """Names that come in the same order as the names that are asked for."""

    def __init__(self, names: Iterator[str]) -> None:
        self._names = names
        self._next = next(names, None)

    def has(self, name: str) -> bool:
        """Whether it is one of them."""
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
    metadata: TextIO | None
    edited: Edited | None


def _add(
    job: Job, mark: Mark, out: _Out, out_of_distribution: OutOfDistribution, gone: _Ahead
) -> Counter[str]:
    """Add a shard's lines to the files; what its images came to."""
    counts: Counter[str] = Counter()
    written: Counter[str] = Counter()
    missing = None
    shard = mark.shard
    for record in records(job, shard):
        name, status = record["file_name"], record["status"]
        written[status] += 1
        is_gone = gone.has(name)
        counts[GONE if is_gone else status] += 1
        if is_gone:
            if out.edited is not None:
                out.edited.drop(as_text(name))
            continue
        if record.get("in_distribution") is False:
            out_of_distribution.add(printable(name))
        if is_failure(status):
            out.failed.write(json.dumps({**record, "file_name": as_text(name)}) + "\n")
        elif out.metadata is not None and status in (OK, KEPT):
            line = _metadata_line(job, record)
            out.metadata.write(out.edited.line(as_text(name), line) if out.edited else line)
        if status == OK and job.has_caption_files:
            sidecar = caption_file(job, name)
            if not sidecar.is_file():
                missing = sidecar
    if missing is not None or written != mark.counts:
        unmark(job, shard)
        what = f"{missing} is missing" if missing else "its lines and counts differ"
        raise DatasetError(
            f"shard {shard.number} of {job.target} is damaged: {what}; run the job again to redo it"
        )
    return counts


def _metadata_line(job: Job, record: Record) -> str:
    """Of an image with a caption file what that says, which may have been corrected by hand."""
    texts = record.get("texts") or [record.get("text", "")]
    if job.has_caption_files:
        texts = current_caption(job, record["file_name"])
    line: Record = {"file_name": target_name(job, record["file_name"]), "text": texts[0]}
    return json.dumps(line | ({"texts": texts} if len(texts) > 1 else {})) + "\n"
