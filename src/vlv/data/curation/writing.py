"""The last step on images: a shard of the images that stay, and what was dropped and why."""

import base64
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from vlv.data.curation.histograms import Histograms
from vlv.data.curation.job import Job, write_json
from vlv.data.curation.source import samples_of
from vlv.data.images import load_image
from vlv.data.keys import Keys
from vlv.data.lenient import Unusable
from vlv.data.remote.locations import shown_name
from vlv.data.samples import Sample
from vlv.data.shards import ShardWriter
from vlv.data.tables import TableWriter, import_pyarrow
from vlv.errors import DatasetError
from vlv.files import atomic_file, write_text
from vlv.text import json_line, printable

DUPLICATES, CHOSEN = "duplicates.parquet", "examples.json"
EXACT, NEAR = "duplicate", "near-duplicate"
_THUMBNAIL = 160

Row = dict[str, Any]


def write(job: Job, number: int) -> int:
    """Write the results of a shard; returns the number of its samples."""
    rows = _rows(job, number)
    chosen = _chosen(job, number)
    thumbnails: dict[int, str] = {}
    with (
        atomic_file(job.path("dropped", number, ".jsonl")) as unfinished,
        open(unfinished, "w", encoding="utf-8") as dropped,
        _Output(job, number) as output,
    ):
        for row, sample in _matched(job, number, rows):
            if row["reason"] is None:
                assert isinstance(sample, Sample)  # an Unusable has a reason
                output.add(sample)
            else:
                dropped.write(json_line(_about(job, number, row)))
            if row["row"] in chosen and row["width"] is not None and isinstance(sample, Sample):
                thumbnails[row["row"]] = _thumbnail(sample, job.max_pixels)
    write_json(job.path("examples", number, ".json"), thumbnails)
    write_json(job.path("written", number, ".json"), _counts(rows))
    return len(rows)


def _rows(job: Job, number: int) -> list[Row]:
    """The record of a shard, with its duplicates as reasons."""
    names = ["row", "name", "crc", "reason", "value", "width", "height", "aesthetic", "watermark"]
    rows = read_rows(job.path("records", number, ".parquet"), names)
    for found in duplicates_of(job, number):
        row = rows[found["row"]]
        row["reason"] = EXACT if found["exact"] else NEAR
        row["original"] = {
            "key": found["original_name"],
            "shard": job.shards[found["original_shard"]].file,
            "row": found["original_row"],
        }
        row["value"] = f"{found['distance']} of 256 bits"
    return rows


def duplicates_of(job: Job, number: int) -> list[Row]:
    """The duplicates in a shard."""
    return read_rows(job.folder / DUPLICATES, filters=[("shard", "=", number)])


def read_rows(path: Path, columns: list[str] | None = None, filters: Any = None) -> list[Row]:
    """The rows of a parquet file that fulfil `filters`, as pyarrow reads them."""
    pq = import_pyarrow()[1]
    # Without partitioning: the names of folders are no columns.
    table = pq.read_table(path, columns=columns, filters=filters, partitioning=None)
    rows: list[Row] = table.to_pylist()
    return rows


def _chosen(job: Job, number: int) -> set[int]:
    """The rows of a shard that the report shows."""
    chosen = json.loads((job.folder / CHOSEN).read_text(encoding="utf-8"))
    return {row for shard, row in chosen["pictures"] if shard == number}


def _matched(job: Job, number: int, rows: list[Row]) -> Iterator[tuple[Row, Sample | Unusable]]:
    """Each row with its sample. Raises DatasetError if the source is not what it was."""
    count = 0
    for sample in samples_of(job, job.shards[number]):
        row = rows[count] if count < len(rows) else None
        crc = zlib.crc32(sample.image) if isinstance(sample, Sample) else None
        if row is None or row["crc"] != crc:
            break
        yield row, sample
        count += 1
    if count != len(rows):
        raise DatasetError(
            f"{printable(job.shards[number].file)} in {shown_name(job.source)} changed while it "
            "was curated; curate it again into a new folder"
        )


def _about(job: Job, number: int, row: Row) -> dict[str, Any]:
    """The line of a dropped sample."""
    line = {
        "key": row["name"],
        "shard": job.shards[number].file,
        "row": row["row"],
        "reason": row["reason"],
        "value": row["value"],
    }
    return line | ({"original": row["original"]} if "original" in row else {})


class _Output:
    """The shard of images that stay; it is not written if there are none. Use it in a `with`."""

    def __init__(self, job: Job, number: int) -> None:
        self._job = job
        self._number = number
        self._keys = Keys("webdataset")
        self._writing: Any = None
        self._writer: Any = None

    def __enter__(self) -> "_Output":
        return self

    def add(self, sample: Sample) -> None:
        if self._writing is None:
            self._writing = _open(self._job, self._number)
            self._writer = self._writing.__enter__()
        self._writer.add(self._keys.named(sample))

    def __exit__(self, *error: Any) -> None:
        if self._writing is not None:
            self._writing.__exit__(*error)


@contextmanager
def _open(job: Job, number: int) -> Iterator[ShardWriter | TableWriter]:
    name = f"{number:05d}"
    if job.output_format == "parquet":
        with (
            atomic_file(job.target / f"{name}.parquet") as unfinished,
            TableWriter(unfinished, uncaptioned=True) as table,
        ):
            yield table
        return
    with (
        atomic_file(job.target / f"{name}.tar") as unfinished,
        ShardWriter(unfinished, uncaptioned=True) as shard,
    ):
        yield shard
    write_text(job.target / f"{name}_stats.json", shard.stats())


def _thumbnail(sample: Sample, max_pixels: int) -> str:
    """A small JPEG of an image, as text."""
    picture = load_image(sample.image, max_pixels=max_pixels)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = io.BytesIO()
    with closing(file):
        picture.save(file, "JPEG", quality=80)
        return base64.b64encode(file.getvalue()).decode("ascii")


def _counts(rows: list[Row]) -> dict[str, Any]:
    histograms = Histograms.empty()
    sized = [row for row in rows if row["width"]]
    histograms.add(
        {
            "side": [min(row["width"], row["height"]) for row in sized],
            "aspect_ratio": [row["width"] / row["height"] for row in sized],
            "aesthetic": [row["aesthetic"] for row in sized],
            "watermark": [row["watermark"] for row in sized],
        },
        [row["reason"] is None for row in sized],
    )
    reasons = Counter(row["reason"] for row in rows if row["reason"] is not None)
    return {
        "samples": len(rows),
        "kept": len(rows) - reasons.total(),
        "reasons": dict(sorted(reasons.items())),
        "histograms": histograms.counts,
    }
