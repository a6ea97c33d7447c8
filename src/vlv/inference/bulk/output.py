"""What a finished shard leaves in the target, all of it or nothing that counts.

A shard's files are written into the job's scratch folder, synced, and moved to their places; its
lines follow, and its mark last. Until the mark is there the shard is not done, and doing it again
puts the same files in the same places.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vlv.data.samples import Sample, parse_object
from vlv.data.sets import write_set
from vlv.errors import DatasetError
from vlv.files import atomic_file, sync
from vlv.inference.bulk.job import Format, Job
from vlv.inference.bulk.plan import Shard
from vlv.inference.caption_files import Sidecars

# An image that came to one of these is not done again.
OK, KEPT = "ok", "kept"
Record = dict[str, Any]


def write_samples(
    samples: Iterable[Sample], folder: Path, shard: Shard, output_format: Format, extension: str
) -> None:
    """Write a shard's captioned samples into an empty folder, under the names of the target.

    Raises:
        OSError: the disk is full, or fails.
    """
    if output_format == "jsonl":
        for _ in samples:
            pass  # the shard's lines are the result
    elif output_format in ("txt", "folder"):
        _write_files(samples, folder, Sidecars(extension), images=output_format == "folder")
    else:
        # All in one file, which is called as the first of several would be.
        write_set(samples, folder, format=output_format, shard_size=2**62)
        for file in list(folder.iterdir()):
            file.rename(file.with_name("-" + file.name.removeprefix("00000")))
        for file in list(folder.iterdir()):
            file.rename(file.with_name(shard.name + file.name.removeprefix("-")))


def _write_files(
    samples: Iterable[Sample], folder: Path, sidecars: Sidecars, *, images: bool
) -> None:
    for sample in samples:
        image = folder / sample.meta["file_name"]
        image.parent.mkdir(parents=True, exist_ok=True)
        if images:
            image.write_bytes(sample.image)
        texts = sample.meta.get("texts", [sample.caption])
        text = "".join(f"{line}\n" for line in texts)
        sidecars.path(image).write_text(text, encoding="utf-8", newline="\n")


def caption_file_exists(job: Job, name: str) -> bool:
    """Whether the target has a caption file for an image; no other format has one for each."""
    if job.output_format not in ("txt", "folder"):
        return False
    return Sidecars(job.caption_extension).has(job.target / name)


def commit(job: Job, shard: Shard, files: Path, lines: Path, counts: Counter[str]) -> None:
    """Move a shard's files and its lines to their places, and mark it as done.

    Raises:
        OSError: the disk is full, or fails; the shard is then not done.
    """
    sizes = {}
    parents = set()
    for file in sorted(path for path in files.rglob("*") if not path.is_dir()):
        place = job.target / file.relative_to(files)
        sync(file)
        size = file.stat().st_size
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)
        parents.add(place.parent)
        # Of text files there may be many; the shard's lines hold the same.
        if job.output_format in ("parquet", "webdataset"):
            sizes[place.name] = size
    for parent in parents:
        sync(parent)
    with atomic_file(lines_path(job, shard)) as unfinished:
        lines.rename(unfinished)
    size = lines_path(job, shard).stat().st_size
    mark = {"images": counts.total(), "counts": counts, "lines": size, "files": sizes}
    with atomic_file(_mark_path(job, shard)) as unfinished:
        unfinished.write_text(json.dumps(mark) + "\n", encoding="ascii")


def counts_of(job: Job, shard: Shard) -> Counter[str] | None:
    """How many images of a shard came to what; None of a shard that is not done, or whose files
    are no longer what they were.
    """
    try:
        path = _mark_path(job, shard)
        mark = parse_object(path.read_bytes(), str(path))
        files = {job.target / name: size for name, size in mark["files"].items()}
        files[lines_path(job, shard)] = mark["lines"]
        if all(file.stat().st_size == size for file, size in files.items()):
            return Counter(mark["counts"])
    except (OSError, DatasetError, KeyError):
        pass  # it is done again
    return None


def unmark(job: Job, shard: Shard) -> None:
    """Make a shard one that is not done."""
    _mark_path(job, shard).unlink(missing_ok=True)


def records(job: Job, shard: Shard) -> Iterator[Record]:
    """The lines of a shard that is done.

    Raises:
        DatasetError: they are damaged.
    """
    path = lines_path(job, shard)
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            yield parse_object(line, f"line {number} of {path}")


def lines_path(job: Job, shard: Shard) -> Path:
    """Where a shard's lines lie."""
    return job.folder / f"{shard.name}.jsonl"


def _mark_path(job: Job, shard: Shard) -> Path:
    return job.folder / f"{shard.name}.json"
