"""The first step on images: what is known of each image of a shard, in a table of its own.

A row for each sample, in order: the reason for which it is dropped by itself, if there is one, and
the fingerprint by which duplicates are found. The first of these reasons counts: it does not
decode, a rule, the blocklist, it is plain.
"""

import hashlib
import json
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from PIL import Image

from vlv.data.curation.columns import ALIASES
from vlv.data.curation.hashes import fingerprint
from vlv.data.curation.information import information_of
from vlv.data.curation.job import Job
from vlv.data.curation.rules import Judge
from vlv.data.curation.source import samples_of
from vlv.data.isolated import DecodingPool
from vlv.data.lenient import Unusable
from vlv.data.samples import Sample
from vlv.data.tables import import_pyarrow
from vlv.errors import ImageError
from vlv.files import atomic_file

# Images that are being decoded while another one is examined.
_AHEAD = 2
# What the report counts, besides the size.
SCORES = ("aesthetic", "watermark")

Row = dict[str, Any]


def examine(job: Job, number: int) -> int:
    """Write the record of a shard; returns the number of its samples."""
    rows: list[Row] = []
    columns: dict[str, list[Any]] = {name: [] for name in _needed(job)}
    for sample, picture in _decoded(job, number):
        rows.append(_row(job, number, len(rows), sample, picture))
        given = {"width": rows[-1]["width"], "height": rows[-1]["height"]}
        values = column_values(sample, given) if isinstance(sample, Sample) else {}
        for name, column in columns.items():
            column.append(values.get(name))
    _judge(job, number, rows, columns)
    _write(job, number, rows)
    return len(rows)


def _needed(job: Job) -> list[str]:
    return sorted({name.lower() for rule in job.rules for name in rule.columns} | set(SCORES))


def _decoded(
    job: Job, number: int
) -> Iterator[tuple[Sample | Unusable, Image.Image | ImageError | None]]:
    """Each sample with its picture, or with the refusal."""
    waiting: deque[tuple[Sample | Unusable, Future[Image.Image] | None]] = deque()
    with DecodingPool(workers=1, max_pixels=job.max_pixels) as pool:
        for sample in samples_of(job, job.shards[number]):
            future = pool.submit(sample.image) if isinstance(sample, Sample) else None
            waiting.append((sample, future))
            if len(waiting) > _AHEAD:
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())


def _result(
    sample: Sample | Unusable, future: Future[Image.Image] | None
) -> tuple[Sample | Unusable, Image.Image | ImageError | None]:
    try:
        return sample, None if future is None else future.result()
    except ImageError as error:
        return sample, error


def _row(
    job: Job,
    number: int,
    place: int,
    sample: Sample | Unusable,
    picture: Image.Image | ImageError | None,
) -> Row:
    row: Row = dict.fromkeys(SCHEMA)
    row |= {"shard": number, "row": place}
    if isinstance(sample, Unusable):
        return row | {"name": sample.name, "reason": sample.reason, "value": sample.message}
    row |= {"name": sample.file_name, "crc": zlib.crc32(sample.image)}
    if not isinstance(picture, Image.Image):
        assert picture is not None  # only an Unusable has none
        value = str(picture.named(sample.file_name))
        return row | {"reason": picture.reason, "value": value}
    row |= {"width": picture.width, "height": picture.height}
    sha256 = hashlib.sha256(sample.image).hexdigest() if job.blocklist.hashes else None
    blocked = job.blocklist.match(sample.caption, sample.meta, sha256)
    plain = None if job.keep_plain else information_of(picture)
    if blocked is not None:
        row |= {"reason": "blocklist", "value": blocked}
    elif plain is not None and plain.reason is not None:
        row |= {"reason": plain.reason, "value": plain.value}
    found = fingerprint(picture)
    return row | {"pixels": found.pixels, "bits": found.bits, "colours": found.colours}


def column_values(sample: Sample, given: dict[str, Any]) -> dict[str, Any]:
    """The values of a sample by the lower-case names of its columns and by our names.

    given: what was measured, which counts more than what the meta data say.
    """
    values = {name.lower(): value for name, value in sample.meta.items()}
    values |= {"caption": sample.caption, **given}
    for ours, aliases in ALIASES.items():
        if ours not in values:
            known = next((alias for alias in aliases if alias in values), None)
            if known is not None:
                values[ours] = values[known]
    return values


def _judge(job: Job, number: int, rows: list[Row], columns: dict[str, list[Any]]) -> None:
    """Add the verdicts of the rules, and the scores."""
    pa, _ = import_pyarrow()
    table = pa.table({name: _array(pa, values) for name, values in columns.items()})
    verdicts = Judge(job.rules).verdicts(table, f"the samples of {job.shards[number].file}")
    for place, (row, verdict) in enumerate(zip(rows, verdicts, strict=True)):
        row |= {name: _score(columns[name][place]) for name in SCORES}
        if verdict is not None and row["width"] is not None:
            row["reason"], row["value"] = verdict


def _array(pa: Any, values: Sequence[Any]) -> Any:
    """A column of JSON values: as they are, if they are of one kind, or else as numbers, if all of
    them can be read so, or else as text.
    """
    with suppress(pa.ArrowException, OverflowError):
        return pa.array(values)
    with suppress(TypeError, ValueError, OverflowError):
        return pa.array([None if value is None else float(value) for value in values])
    return pa.array(
        [one if one is None or isinstance(one, str) else json.dumps(one) for one in values]
    )


def _score(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


# Column -> its type in Arrow.
SCHEMA = {
    "shard": "int32",
    "row": "int32",
    "name": "string",
    "crc": "uint32",
    "reason": "string",
    "value": "string",
    "width": "int32",
    "height": "int32",
    "aesthetic": "float64",
    "watermark": "float64",
    "pixels": "binary",
    "bits": "binary",
    "colours": "binary",
}


def _write(job: Job, number: int, rows: list[Row]) -> None:
    pa, pq = import_pyarrow()
    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in SCHEMA.items()])
    with atomic_file(job.path("records", number, ".parquet")) as unfinished:
        pq.write_table(pa.Table.from_pylist(rows, schema), unfinished, compression="zstd")
