"""Metadata before any download: the rows of parquet files that fulfil the rules, as a list of links
for img2dataset.

Files are read in batches, so a file of any size needs little memory.
"""

import json
import shlex
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlv.data.curation.columns import ALIASES, found_columns
from vlv.data.curation.histograms import Histograms
from vlv.data.curation.job import Job, write_json
from vlv.data.curation.rules import Judge
from vlv.data.remote.locations import SetFile, on_disk
from vlv.data.tables import import_pyarrow
from vlv.files import atomic_file
from vlv.text import printable

LINKS, DROPPED_LINKS = "urls", "dropped"
_ROWS = 100_000
# Examples of a reason in a file; the report shows the first ones.
_EXAMPLES = 8
NO_URL = "no-url"
# Columns that img2dataset writes itself.
_OWN = {
    *("url", "caption", "key", "shard_id", "status", "error_message", "exif", "sha256"),
    *("width", "height", "original_width", "original_height"),
}


def filter_links(job: Job, number: int) -> int:
    """Write the rows of a file that stay and those that are dropped; returns their number."""
    pa, _ = import_pyarrow()
    source = job.file(job.shards[number])
    counts: Counter[str] = Counter()
    histograms = Histograms.empty()
    examples: dict[str, list[list[str]]] = {}
    damage: str | None = None
    first = 0
    judge = Judge(job.rules)
    with (
        _parquet(job.target / LINKS / f"{number:05d}.parquet") as kept,
        _parquet(job.target / DROPPED_LINKS / f"{number:05d}.parquet") as dropped,
    ):
        batches = _batches(source)
        while True:
            try:
                table = next(batches, None)
            except (pa.ArrowException, OSError, ValueError) as error:
                damage = f"{printable(str(source))} is damaged after row {first} ({error})"
                break
            if table is None:
                break
            verdicts = _verdicts(job, table, judge, printable(str(source)))
            stays = [verdict is None for verdict in verdicts]
            kept.write(table.filter(pa.array(stays)))
            gone = _dropped(table, verdicts, first)
            dropped.write(gone)
            _remember(examples, gone)
            counts.update(verdict[0] if verdict else "" for verdict in verdicts)
            histograms.add(_quantities(table), stays)
            first += table.num_rows
    result = {
        "samples": first,
        "kept": counts.pop("", 0),
        "reasons": dict(sorted(counts.items())),
        "histograms": histograms.counts,
        "examples": examples,
        "damage": damage,
    }
    write_json(job.path("written", number, ".json"), result)
    return first


def _batches(source: SetFile) -> Iterator[Any]:
    pa, pq = import_pyarrow()
    with on_disk(source) as path, pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"it has two columns {twice[0]}")
        if "url" not in found_columns(names):
            raise ValueError(f"none of its columns is one of {', '.join(ALIASES['url'])}")
        for batch in file.iter_batches(batch_size=_ROWS):
            yield _with_valid_text(pa, pa.Table.from_batches([batch]))


def _with_valid_text(pa: Any, table: Any) -> Any:
    """The table with a replacement character for bytes that are not UTF-8, which pyarrow reads and
    nothing else does.
    """
    for at, field in enumerate(table.schema):
        if not (pa.types.is_string(field.type) or pa.types.is_large_string(field.type)):
            continue
        column = table.column(at)
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            cells = column.cast(pa.large_binary()).to_pylist()
            texts = [None if cell is None else cell.decode(errors="replace") for cell in cells]
            table = table.set_column(at, field, pa.array(texts, field.type))
    return table


class _Writer:
    """Writes a parquet file once its schema is known; no rows give no file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None

    def write(self, table: Any) -> None:
        """Add rows."""
        if not table.num_rows:
            return
        if self._writer is None:
            pq = import_pyarrow()[1]
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)

    def close(self) -> bool:
        """Finish the file; whether it has rows."""
        if self._writer is not None:
            self._writer.close()
        return self._writer is not None


@contextmanager
def _parquet(path: Path) -> Iterator[_Writer]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as unfinished:
        writer = _Writer(unfinished)
        yield writer
        if not writer.close():
            unfinished.touch()
    if not writer.close():
        path.unlink()


def _verdicts(
    job: Job, table: Any, judge: Judge, where: str
) -> list[tuple[str, str | None] | None]:
    """What is wrong with each row: it has no link, a rule, or the blocklist."""
    columns = found_columns(table.column_names)
    urls = table.column(columns["url"]).to_pylist()
    verdicts = judge.verdicts(table, where)
    found = [
        (NO_URL, None) if not url else verdict for url, verdict in zip(urls, verdicts, strict=True)
    ]
    blocked = job.blocklist
    if blocked.phrases or blocked.domains or blocked.hashes:
        for place, row in enumerate(table.to_pylist()):
            if found[place] is None:
                caption = row.get(columns.get("caption", ""))
                match = blocked.match(caption if isinstance(caption, str) else None, row)
                found[place] = None if match is None else ("blocklist", match)
    return found


def _dropped(table: Any, verdicts: list[tuple[str, str | None] | None], first: int) -> Any:
    pa, _ = import_pyarrow()
    gone = [(place, verdict) for place, verdict in enumerate(verdicts) if verdict is not None]
    places = pa.array([place for place, _ in gone], pa.int64())
    urls = table.column(found_columns(table.column_names)["url"]).take(places)
    return pa.table(
        {
            "row": pa.array([first + place for place, _ in gone], pa.int64()),
            "url": urls.cast(pa.string()),
            "reason": pa.array([verdict[0] for _, verdict in gone], pa.string()),
            "value": pa.array([verdict[1] for _, verdict in gone], pa.string()),
        }
    )


def _remember(examples: dict[str, list[list[str]]], gone: Any) -> None:
    reasons = gone.column("reason").to_pylist()
    for place, reason in enumerate(reasons):
        known = examples.setdefault(reason, [])
        if len(known) < _EXAMPLES:
            row = gone.slice(place, 1).to_pylist()[0]
            known.append([row["url"] or "", row["value"] or ""])


def _quantities(table: Any) -> dict[str, list[Any]]:
    """What the histograms count."""
    columns = found_columns(table.column_names)
    found: dict[str, list[Any]] = {}
    if "width" in columns and "height" in columns:
        sizes = [
            (w, h) if isinstance(w, int | float) and isinstance(h, int | float) else (None, None)
            for w, h in zip(
                table.column(columns["width"]).to_pylist(),
                table.column(columns["height"]).to_pylist(),
                strict=True,
            )
        ]
        found["side"] = [None if w is None or h is None else min(w, h) for w, h in sizes]
        found["aspect_ratio"] = [w / h if w and h else None for w, h in sizes]
    for name in ("aesthetic", "watermark"):
        if name in columns:
            found[name] = table.column(columns[name]).to_pylist()
    return found


def download_command(job: Job, columns: list[str]) -> str:
    """The img2dataset command that downloads what stays, with the metadata that the next step
    needs.

    columns: of the metadata.
    """
    ours = found_columns(columns)
    also = [name for name in columns if name not in {*_OWN, ours["url"], ours.get("caption")}]
    words = [
        *("img2dataset", "--url_list", str(job.target / LINKS), "--input_format", "parquet"),
        *("--url_col", ours["url"]),
        *(("--caption_col", ours["caption"]) if "caption" in ours else ()),
        *("--output_format", "webdataset", "--output_folder", f"{job.target}-images"),
        # A shorter side of 768 keeps the limit of 512; smaller images are not enlarged.
        *("--resize_mode", "keep_ratio", "--image_size", "768", "--resize_only_if_bigger", "True"),
        *("--compute_hash", "sha256", "--incremental_mode", "incremental"),
        *(("--save_additional_columns", json.dumps(also)) if also else ()),
    ]
    return shlex.join(words)
