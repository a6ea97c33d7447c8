"""The files of a finished shard in the target: all of them, or none that counts.

A shard's files are written into the job's scratch folder, synced, and moved to their places. Its
lines follow, and its mark comes last. Without the mark the shard is not done, and doing it again
puts the same files in the same places. A mark holds hashes of the files.
"""

import errno
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlv.data.samples import Sample, parse_object
from vlv.data.shards import ShardWriter
from vlv.data.tables import TableWriter
from vlv.errors import DatasetError
from vlv.files import atomic_file, sha256_of, sync, write_text
from vlv.inference.bulk.changes import is_as_seen, seen
from vlv.inference.bulk.image_names import KEPT
from vlv.inference.bulk.job import Job
from vlv.inference.bulk.plan import Shard
from vlv.inference.caption_files import Sidecars, holds_text
from vlv.inference.written import FolderRecords, Replace, Written, may_replace, text_of
from vlv.text import as_text, printable

# Images that have a caption now, as those that are `KEPT`, are not done again; the others were gone
# from the source.
OK, GONE = "ok", "gone"
Record = dict[str, Any]

# Errors of a name that cannot be a file's here; other errors are the disk's.
_NAME_ERRORS = (
    errno.ENAMETOOLONG,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.EINVAL,
    errno.EILSEQ,
    errno.ELOOP,
)


@contextmanager
def sample_writer(job: Job, shard: Shard, folder: Path) -> Iterator[Callable[[Sample], str | None]]:
    """Write a shard's captioned samples into an empty folder, under their names in the target.

    The function writes one sample, or returns why this sample cannot be written.

    Raises:
        OSError: the disk is full, or fails.
    """
    if job.output_format == "jsonl":
        yield lambda sample: None  # the lines of the shard are the result
    elif job.has_caption_files:
        yield lambda sample: _write_files(job, sample, folder)
    elif job.output_format == "parquet":
        with TableWriter(folder / f"{shard.name}.parquet") as table:
            yield _refusing(table.add)
    else:
        with ShardWriter(folder / f"{shard.name}.tar") as writer:
            yield _refusing(writer.add)
        (folder / f"{shard.name}_stats.json").write_text(writer.stats())


def _refusing(add: Callable[[Sample], None]) -> Callable[[Sample], str | None]:
    def refusing(sample: Sample) -> str | None:
        try:
            add(sample)
        except DatasetError as error:
            return str(error)
        return None

    return refusing


def _write_files(job: Job, sample: Sample, folder: Path) -> str | None:
    image = folder / sample.meta["file_name"]
    sidecar = Sidecars(job.caption_extension).path(image)
    texts = sample.meta.get("texts", [sample.caption])
    files = {sidecar: "".join(f"{line}\n" for line in texts).encode()}
    if job.output_format == "folder":
        files[image] = sample.image
    written = []
    try:
        image.parent.mkdir(parents=True, exist_ok=True)
        for path, data in files.items():
            place = job.target / path.relative_to(folder)
            if place.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(place))
            with path.open("xb") as file:
                written.append(path)
                file.write(data)
    except OSError as error:
        if error.errno not in _NAME_ERRORS:
            raise
        for path in written:
            path.unlink()
        return f"what belongs to {printable(sample.meta['file_name'])} cannot be written ({error})"
    return None


def caption_file(job: Job, name: str) -> Path:
    """The caption file of an image in the target, if captions are files."""
    return Sidecars(job.caption_extension).path(job.target / target_name(job, name))


def found_caption_file(job: Job, name: str) -> Path:
    """The caption file of an image that readers find in the target, which may be a `.caption`."""
    return Sidecars(job.caption_extension).found(job.target / target_name(job, name))


def target_name(job: Job, name: str) -> str:
    """The name of an image in the results: bytes that are not UTF-8 are escaped, except in the
    source's own tree.
    """
    return name if job.output_format == "txt" else as_text(name)


def commit(
    job: Job,
    shard: Shard,
    source: list[int] | None,
    source_hash: str | None,
    files: Path,
    lines: Path,
    replace: Replace,
    records: FolderRecords,
) -> Counter[str]:
    """Move a shard's files and lines to their places, and mark it as done. Returns the counts of
    results. A caption file that somebody has written meanwhile stays, unless `replace` allows to
    replace it; `records` show who wrote it. source: `seen` of the shard's file before it was read,
    so that what was added to it meanwhile is noticed by the next run. source_hash: of its content.

    Raises:
        OSError: the disk is full, or fails; the shard is then not done.
    """
    hashes, changed = _move_files(job, files, replace, records)
    counts = _amended(job, lines, changed)
    sync(lines)
    with atomic_file(lines_path(job, shard)) as unfinished:
        lines.rename(unfinished)
    mark = {
        "images": counts.total(),
        "counts": counts,
        "lines": sha256_of(lines_path(job, shard)),
        "files": hashes,
        "shard": asdict(shard),
        "source": source,
        "source_sha256": source_hash,
    }
    write_text(_mark_path(job, shard), json.dumps(mark) + "\n")
    return counts


def _move_files(
    job: Job, files: Path, replace: Replace, records: FolderRecords
) -> tuple[dict[str, str], dict[Path, Record]]:
    """Move a shard's files to their places. Returns the hashes of sets, and new lines for images
    whose files were not moved, by the places of these.
    """
    hashes: dict[str, str] = {}
    changed: dict[Path, Record] = {}
    sidecars = Sidecars(job.caption_extension)
    by_parent: dict[Path, list[Path]] = defaultdict(list)
    for file in sorted(path for path in files.rglob("*") if not path.is_dir()):
        by_parent[file.parent].append(file)
    for parent, inside in by_parent.items():
        place = job.target / parent.relative_to(files)
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            refused = _unwritable(error)
            changed |= {job.target / one.relative_to(files): refused for one in inside}
            continue
        captions = {one for one in inside if job.has_caption_files and _is_caption(job, one)}
        records.of(place).note(
            (one.name, one.read_text("utf-8")) for one in inside if one in captions
        )
        for file in inside:
            sync(file)
            goal = place / file.name
            there = sidecars.found(goal)
            if file in captions and not may_replace(there, replace, records.of(place)):
                changed[goal] = {"status": KEPT, "message": "somebody has written its caption"}
                continue
            # There may be many text files; the shard's lines hold the same text.
            if job.output_format in ("parquet", "webdataset"):
                hashes[goal.name] = sha256_of(file)
            try:
                file.replace(goal)
            except OSError as error:
                changed[goal] = _unwritable(error)
        sync(place)
    return hashes, changed


def _unwritable(error: OSError) -> Record:
    """The line of an image whose name the target cannot hold. Raises any other error."""
    if error.errno not in _NAME_ERRORS:
        raise error
    return {"status": "unwritable", "message": f"it cannot be written ({error})"}


def _is_caption(job: Job, file: Path) -> bool:
    return file.suffix == Path(f"a{job.caption_extension}").suffix


def _amended(job: Job, lines: Path, changed: dict[Path, Record]) -> Counter[str]:
    """Count the lines, with new lines for images whose files were not moved."""
    counts: Counter[str] = Counter()
    amended = lines.with_suffix(".amended")
    with open(lines, "rb") as before, open(amended, "w", encoding="ascii") as after:
        for line in before:
            record = json.loads(line)
            if changed and record["status"] == OK:
                name = record["file_name"]
                image = job.target / target_name(job, name)
                new = changed.get(image) or changed.get(caption_file(job, name))
                if new:
                    record = {"file_name": name, **new}
            counts[record["status"]] += 1
            after.write(json.dumps(record) + "\n")
    amended.replace(lines)
    return counts


@dataclass(frozen=True)
class Mark:
    """The content of a mark: counts of results, hashes of files, and [size, time] and hash of the
    source.
    """

    counts: Counter[str]
    lines: str
    files: dict[str, str]
    shard: Shard
    source: list[int] | None
    source_hash: str | None

    @property
    def failures(self) -> int:
        """The number of images in the source without a caption."""
        return sum(count for status, count in self.counts.items() if is_failure(status))


def is_failure(status: str) -> bool:
    """Whether an image with this status has no caption."""
    return status not in (OK, KEPT, GONE)


def mark_of(job: Job, number: int) -> Mark | None:
    """The mark of a shard; None if it is missing or damaged."""
    path = job.folder / f"{number:05d}.json"
    try:
        mark = parse_object(path.read_bytes(), str(path))
        shard = Shard.of(mark["shard"])
        counts, source = Counter(mark["counts"]), mark["source"]
        return Mark(counts, mark["lines"], mark["files"], shard, source, mark.get("source_sha256"))
    except (OSError, DatasetError, KeyError, TypeError):
        return None


def is_whole(job: Job, mark: Mark) -> bool:
    """Whether all files of a shard have the hashes in its mark; reads all of them."""
    try:
        files = {job.target / name: value for name, value in mark.files.items()}
        files[lines_path(job, mark.shard)] = mark.lines
        return all(sha256_of(file) == value for file, value in files.items())
    except (OSError, AttributeError, TypeError):
        return False


def unmark(job: Job, shard: Shard) -> None:
    """Remove the mark of a shard, so that it is done again."""
    _mark_path(job, shard).unlink(missing_ok=True)


def compact_records(job: Job, shards: Iterable[Shard]) -> None:
    """Compact the records of captions in the folders of these shards.

    Raises:
        OSError: the disk is full, or fails.
    """
    images: Counter[Path] = Counter()
    for shard in shards if job.has_caption_files else ():
        images.update(caption_file(job, one["file_name"]).parent for one in records(job, shard))
    for folder, count in images.items():
        written = Written(folder)
        if written.count_lines() > count * lines_of_image(job):  # else nothing can be dropped
            written.compact()


def lines_of_image(job: Job) -> int:
    """The lines of an image in a record of captions: two if its caption is in a file of its own and
    in metadata.jsonl.
    """
    return 2 if job.output_format == "folder" else 1


def records(job: Job, shard: Shard) -> Iterator[Record]:
    """The lines of a finished shard.

    Raises:
        DatasetError: they are damaged.
    """
    path = lines_path(job, shard)
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            yield parse_object(line, f"line {number} of {path}")


def was_changed(job: Job, record: Record) -> bool:
    """Whether an image has changed in its folder since its line was written, or is there again. Of
    a failure another time is a change: it costs little to try it again.
    """
    path, status = os.path.join(job.source, record["file_name"]), record["status"]
    now = seen(path)
    if status == GONE or now is None:
        return status == GONE and now is not None
    if status == KEPT or record.get("seen") is None:
        return is_failure(status) and "seen" in record
    if is_failure(status):
        return bool(record["seen"] != now)
    return not is_as_seen(path, record["seen"], record.get("sha256"))


def has_lost_caption(job: Job, record: Record) -> bool:
    """Whether an image had a caption file that is gone now, or holds no text any more."""
    if not job.has_caption_files or record["status"] not in (OK, KEPT):
        return False
    return not holds_text(found_caption_file(job, record["file_name"]))


def current_caption(job: Job, name: str) -> list[str]:
    """The captions in an image's caption file in the target."""
    return (text_of(found_caption_file(job, name)) or "").split("\n")


def lines_path(job: Job, shard: Shard) -> Path:
    """The file of a shard's lines."""
    return job.folder / f"{shard.name}.jsonl"


def _mark_path(job: Job, shard: Shard) -> Path:
    return job.folder / f"{shard.name}.json"
