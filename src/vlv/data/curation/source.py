"""The source of a curation job: its shards, and the samples of a shard.

A damaged image, caption or shard stops nothing else: it is an `Unusable` in its place.
"""

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

from vlv.data.curation.columns import found_columns
from vlv.data.curation.job import FOLDER, Job, Kind, Shard, has_results
from vlv.data.folder import read_sample
from vlv.data.folder_metadata import read_metadata
from vlv.data.items import folder_state, metadata_state
from vlv.data.lenient import Unusable, with_readable_caption, writable
from vlv.data.remote.locations import SetFile, address_of, on_disk
from vlv.data.remote.samples import NOT_FETCHED, lenient_samples, stats_of
from vlv.data.samples import Sample
from vlv.data.set_index import state_of
from vlv.data.sets import detect_format, files_of, folder_of
from vlv.data.tables import image_column, import_pyarrow
from vlv.data.walking import walk
from vlv.errors import DatasetError
from vlv.files import atomic_file
from vlv.text import printable

# Samples in which columns are looked for.
_SAMPLES = 100


def kind_of(source: Path) -> Kind:
    """What a source holds: images in one of three layouts, or metadata with links to images.

    Raises:
        DatasetError: neither.
        ConfigError: pyarrow is needed and not installed.
    """
    format = detect_format(source)
    if format != "parquet":
        return "webdataset" if format == "webdataset" else "folder"
    file, names = _first_readable(source)
    if image_column(names):
        return "parquet"
    if "url" in found_columns(names):
        return "links"
    raise DatasetError(
        f"{printable(str(file))} has neither a column of images ('image') nor one of links ('url' "
        f"or 'URL'); its columns are {', '.join(names)}"
    )


def _first_readable(source: Path) -> tuple[SetFile, list[str]]:
    """The first parquet file that is not damaged, and its columns."""
    files = files_of(source, "parquet")
    for file in files[:-1]:
        with suppress(DatasetError):
            return file, parquet_columns(file)
    return files[-1], parquet_columns(files[-1])


def parquet_columns(file: SetFile) -> list[str]:
    """The columns of a parquet file. Raises DatasetError if it is damaged or cannot be fetched."""
    pa, pq = import_pyarrow()
    try:
        with on_disk(file) as path:
            return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(
            f"{printable(str(file))} is damaged, or is no parquet file ({error})"
        ) from error


def columns_of_source(source: Path, kind: Kind) -> list[str]:
    """The columns that conditions may name: those of the metadata, or what the first samples have
    in their JSON data, and width, height and caption.
    """
    if kind == "links":
        return _first_readable(source)[1]
    names = dict.fromkeys(("width", "height", "caption"))
    for sample in islice(_first_samples(source, kind), _SAMPLES):
        if isinstance(sample, Sample):
            names.update(dict.fromkeys(sample.meta))
    return list(names)


def _first_samples(source: Path, kind: Kind) -> Iterator[Sample | Unusable]:
    if kind == "folder":
        for entry in read_metadata(folder_of(source)).values():
            yield Sample("", b"", "", None, entry)
        return
    for file in files_of(source, "webdataset" if kind == "webdataset" else "parquet"):
        yield from lenient_samples(file)


def shards_of(source: Path, kind: Kind, target: Path, shard_size: int) -> tuple[Shard, ...]:
    """The shards of a source, always in the same order. The names of a folder's images are
    written into the job's folder first.

    Raises:
        DatasetError: there are none.
    """
    if kind == "folder":
        shards = tuple(_blocks(folder_of(source), target, shard_size))
        if not shards:
            raise DatasetError(f"there is no image in {printable(source)}")
        return shards
    files = files_of(source, "webdataset" if kind == "webdataset" else "parquet")
    return tuple(
        Shard(at, file.name, state_of(file), address=address_of(_absolute(file)))
        for at, file in enumerate(files)
    )


def _absolute(file: SetFile) -> SetFile:
    return file.absolute() if isinstance(file, Path) else file


def _blocks(source: Path, target: Path, shard_size: int) -> Iterator[Shard]:
    path = _names_file(source, target)
    if not (path.is_file() and has_results(target)):
        with (
            atomic_file(path) as unfinished,
            open(unfinished, "w", encoding="utf-8") as file,
        ):
            # Files in formats that are not read are dropped with a reason, not passed over.
            for name, problem in walk(source, leave_out=target):
                inside = PurePath(os.path.relpath(name, source)).as_posix()
                file.write(json.dumps([inside, problem, folder_state(name)]) + "\n")
    captions = metadata_state(source, target).encode()
    number = first = count = 0
    checksum = zlib.crc32(captions)
    with path.open("rb") as lines:
        while line := lines.readline():
            count, checksum = count + 1, zlib.crc32(line, checksum)
            if count == shard_size:
                yield Shard(number, source.name, f"{checksum:08x}", first, count)
                number, first, count = number + 1, lines.tell(), 0
        if count:
            yield Shard(number, source.name, f"{checksum:08x}", first, count)


def _names_file(source: Path, target: Path) -> Path:
    """The list of a folder's images."""
    return target / FOLDER / f"names-{zlib.crc32(os.fsencode(source.absolute())):08x}.jsonl"


_DOWNLOADS = {
    "count": "links",
    "successes": "downloaded",
    "failed_to_download": "failed_to_download",
    "failed_to_resize": "failed_to_resize",
}


def downloads_of(job: Job) -> dict[str, int] | None:
    """What became of the links by the `_stats.json` that img2dataset writes beside its shards; None
    if no link failed, as for shards that were never downloaded.
    """
    sums = dict.fromkeys(_DOWNLOADS.values(), 0)
    for shard in job.shards if job.kind == "webdataset" else ():
        found = stats_of(job.file(shard)) or {}
        for theirs, ours in _DOWNLOADS.items():
            value = found.get(theirs)
            sums[ours] += value if isinstance(value, int) else 0
    return sums if sums["links"] > sums["downloaded"] else None


def samples_of(job: Job, shard: Shard) -> Iterator[Sample | Unusable]:
    """The samples of a shard, in order."""
    if job.kind == "folder":
        return _samples_of_block(job, shard)
    return map(_named_damage, map(with_readable_caption, lenient_samples(job.file(shard))))


def _named_damage(sample: Sample | Unusable) -> Sample | Unusable:
    """A damaged part of a shard under a reason of its own: more than one image may be lost. A
    caption that cannot be read has the reason that it has in a folder.

    Raises:
        DatasetError: a store did not give the shard; the same command goes on when it does.
    """
    if isinstance(sample, Unusable) and sample.reason == NOT_FETCHED:
        raise DatasetError(sample.message)
    if isinstance(sample, Unusable) and sample.is_damage:
        return replace(sample, reason="damaged")
    if isinstance(sample, Unusable) and sample.reason == "bad-caption":
        return replace(sample, reason="unreadable")
    return sample


def _samples_of_block(job: Job, shard: Shard) -> Iterator[Sample | Unusable]:
    metadata = _metadata(job.source)
    with _names_file(job.source, job.target).open("rb") as lines:
        lines.seek(shard.first)
        for _ in range(shard.count):
            name, problem, _ = json.loads(lines.readline())
            if problem is None:
                try:
                    yield writable(read_sample(job.source, name, metadata.get(name, {})))
                    continue
                except DatasetError as error:
                    problem = str(error)
            yield Unusable(printable(name), printable(problem), "unreadable")


@lru_cache(maxsize=1)
def _metadata(folder: Path) -> dict[str, dict[str, Any]]:
    return read_metadata(folder)
