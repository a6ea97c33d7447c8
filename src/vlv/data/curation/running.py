"""A curation job from its beginning, or from where it was stopped, to its report.

On metadata, each file is filtered by itself. On images there are three steps: every shard is
examined, duplicates are found among all, every shard is written. What is done stays done.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vlv.data.curation.duplicates import Block, find_duplicates
from vlv.data.curation.examining import examine
from vlv.data.curation.histograms import Histograms
from vlv.data.curation.job import DROPPED, PAGE, SUMMARY, Job, begin, complete, write_json
from vlv.data.curation.links import download_command, filter_links
from vlv.data.curation.report import Example, curation_page
from vlv.data.curation.source import downloads_of, parquet_columns
from vlv.data.curation.writing import CHOSEN, DUPLICATES, EXACT, NEAR, read_rows, write
from vlv.data.engines import Workers, run_step
from vlv.data.tables import import_pyarrow
from vlv.errors import DatasetError
from vlv.files import atomic_file, write_text
from vlv.text import counted, read_object

# Pictures of each reason in the report.
EXAMPLES = 8
# Reasons for which samples are lost that nobody asked to drop.
LOST = ("damaged", "unreadable")

Bar = Callable[[str, str, int, int], AbstractContextManager[Callable[[int], None]]]
"""A progress bar from a description, the name of a part, the number of parts, and how many of them
were done before. It is called with the number of samples of each part that is done.
"""


@dataclass
class Curated:
    """What a job found.

    reasons: how many samples were dropped, by reason. lost: a sentence for each part of the source
    that could not be read. command: of img2dataset, for metadata. downloads: what img2dataset did
    before, for its shards: links, successes, failed_to_download, failed_to_resize.
    """

    samples: int = 0
    kept: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    command: str | None = None
    downloads: dict[str, int] | None = None

    def as_json(self) -> dict[str, Any]:
        """For curation.json and the command's output."""
        return {
            "samples": self.samples,
            "kept": self.kept,
            "dropped": dict(sorted(self.reasons.items(), key=lambda each: (-each[1], each[0]))),
            "lost": self.lost,
            **({"img2dataset": self.command} if self.command else {}),
            **({"downloads": self.downloads} if self.downloads else {}),
        }


def curate(job: Job, workers: Workers, bar: Bar, say: Callable[[str], object]) -> Curated:
    """Do a job, or what is left of it. For a process that holds its lock.

    bar: shows progress. say: receives a line where long work begins that has no bar.

    Raises:
        ConfigError: the folder holds another job's results, or a rule does not fit the columns.
        DatasetError: the source changed, or a process died.
    """
    if begin(job):
        return _recorded(job)
    if job.kind == "links":
        _for_each(filter_links, job, "written", workers, bar, "links")
        curated, page = _report_on_links(job)
    else:
        _for_each(examine, job, "records", workers, bar, "images")
        _find_duplicates(job, bar, say)
        _choose_examples(job, bar)
        _for_each(write, job, "written", workers, bar, "writing")
        curated, page = _report_on_images(job)
    write_text(job.target / PAGE, page)
    write_json(job.target / SUMMARY, curated.as_json())
    complete(job)
    return curated


def _recorded(job: Job) -> Curated:
    known = read_object(job.target / SUMMARY, DatasetError)
    return Curated(
        known["samples"],
        known["kept"],
        Counter(known["dropped"]),
        known["lost"],
        known.get("img2dataset"),
        known.get("downloads"),
    )


def _for_each(
    step: Callable[[Job, int], int],
    job: Job,
    folder: str,
    workers: Workers,
    bar: Bar,
    description: str,
) -> None:
    """Do a step for the shards for which its file in `folder` is missing."""
    suffix = ".parquet" if folder == "records" else ".json"
    left = [
        shard.number for shard in job.shards if not job.path(folder, shard.number, suffix).is_file()
    ]
    with bar(description, "shard", len(job.shards), len(job.shards) - len(left)) as done:
        for samples in run_step(partial(step, job.anywhere()), left, workers) if left else ():
            done(samples)


def _find_duplicates(job: Job, bar: Bar, say: Callable[[str], object]) -> None:
    out = job.folder / DUPLICATES
    if out.is_file():
        return
    if job.duplicates == "keep":
        pa, pq = import_pyarrow()
        names = ("row", "distance", "original_shard", "original_row")
        fields = [("shard", pa.int32()), *((name, pa.int32()) for name in names)]
        schema = pa.schema([*fields, ("exact", pa.bool_()), ("original_name", pa.string())])
        with atomic_file(out) as unfinished:
            pq.write_table(schema.empty_table(), unfinished)
        return

    def watch(blocks: Iterable[Block], total: int) -> Iterator[Block]:
        with bar("compared", "block", total, 0) as done:
            for block in blocks:
                yield block
                done(len(block[0]))

    say(f"looking for duplicates among the images of {counted(len(job.shards), 'shard')}")
    find_duplicates(
        job.folder / "records",
        out,
        max_distance=job.max_distance if job.duplicates == "near" else None,
        spill=job.folder / "spill",
        watch=watch,
    )


def _choose_examples(job: Job, bar: Bar) -> None:
    """Record the first samples of each reason, and the originals of duplicates."""
    path = job.folder / CHOSEN
    if path.is_file():
        return
    _, pq = import_pyarrow()
    import pyarrow.compute as pc

    examples: dict[str, list[Any]] = {}
    with bar("dropped", "shard", len(job.shards), 0) as done:
        for shard in job.shards:
            record = job.path("records", shard.number, ".parquet")
            is_dropped = pc.field("reason").is_valid()
            rows = read_rows(record, ["row", "name", "reason", "value"], is_dropped)
            for row in rows:
                known = examples.setdefault(row["reason"], [])
                if len(known) < EXAMPLES:
                    known.append([shard.number, row["row"], row["name"], row["value"], None])
            done(len(rows))
    for exact, reason in ((True, EXACT), (False, NEAR)):
        found = _first(pq, job.folder / DUPLICATES, exact)
        for row in found:
            original = [row["original_shard"], row["original_row"]]
            value = f"{row['distance']} of 256 bits"
            examples.setdefault(reason, []).append(
                [
                    row["shard"],
                    row["row"],
                    _name(job, row["shard"], row["row"]),
                    value,
                    original,
                ]
            )
    pictures = [one[:2] for many in examples.values() for one in many]
    pictures += [one[4] for many in examples.values() for one in many if one[4] is not None]
    write_json(path, {"examples": examples, "pictures": pictures})


def _first(pq: Any, path: Path, exact: bool) -> list[dict[str, Any]]:
    """The first duplicates of a kind."""
    rows: list[dict[str, Any]] = []
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            rows += [row for row in batch.to_pylist() if row["exact"] == exact]
            if len(rows) >= EXAMPLES:
                break
    return rows[:EXAMPLES]


def _name(job: Job, shard: int, row: int) -> str:
    record = job.path("records", shard, ".parquet")
    (found,) = read_rows(record, ["name"], [("row", "=", row)])
    return str(found["name"])


def _report_on_images(job: Job) -> tuple[Curated, str]:
    curated, histograms = Curated(), Histograms.empty()
    with atomic_file(job.target / DROPPED) as unfinished, open(unfinished, "wb") as out:
        for shard in job.shards:
            counts = read_object(job.path("written", shard.number, ".json"), DatasetError)
            _add(curated, histograms, counts)
            dropped = job.path("dropped", shard.number, ".jsonl").read_bytes()
            out.write(dropped)
            if any(reason in LOST for reason in counts["reasons"]):
                lines = map(json.loads, dropped.splitlines())
                lost = (str(line["value"]) for line in lines if line["reason"] in LOST)
                curated.lost += dict.fromkeys(lost)  # each row of a damaged group says the same
    curated.downloads = downloads_of(job)
    return curated, curation_page(job, curated.as_json(), histograms, _shown(job))


def _shown(job: Job) -> dict[str, list[Example]]:
    """The examples with their pictures."""
    chosen = read_object(job.folder / CHOSEN, DatasetError)["examples"]
    thumbnails: dict[int, dict[str, str]] = {}

    def thumbnail(shard: int, row: int) -> str | None:
        if shard not in thumbnails:
            thumbnails[shard] = read_object(job.path("examples", shard, ".json"), DatasetError)
        return thumbnails[shard].get(str(row))

    return {
        reason: [
            Example(name, value, thumbnail(shard, row), original and thumbnail(*original))
            for shard, row, name, value, original in examples
        ]
        for reason, examples in chosen.items()
    }


def _report_on_links(job: Job) -> tuple[Curated, str]:
    curated, histograms = Curated(), Histograms.empty()
    shown: dict[str, list[Example]] = {}
    for shard in job.shards:
        counts = read_object(job.path("written", shard.number, ".json"), DatasetError)
        _add(curated, histograms, counts)
        if counts["damage"]:
            curated.lost.append(counts["damage"])
        for reason, found in counts["examples"].items():
            known = shown.setdefault(reason, [])
            known += [Example(url, value) for url, value in found[: EXAMPLES - len(known)]]
    if curated.kept:
        first = next(shard for shard in job.shards if not _is_damaged(job, shard.number))
        curated.command = download_command(job, parquet_columns(job.file(first)))
    return curated, curation_page(job, curated.as_json(), histograms, shown)


def _is_damaged(job: Job, number: int) -> bool:
    counts = read_object(job.path("written", number, ".json"), DatasetError)
    return bool(counts["damage"]) and not counts["samples"]


def _add(curated: Curated, histograms: Histograms, counts: dict[str, Any]) -> None:
    curated.samples += counts["samples"]
    curated.kept += counts["kept"]
    curated.reasons.update(counts["reasons"])
    histograms.merge(counts["histograms"])
