"""What a job amounts to, counted from what lies on the disk and not from what was said on the way.

Also writes the files that only a complete job can have.
"""

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from vlv.errors import DatasetError
from vlv.files import atomic_file
from vlv.inference.bulk.job import Job
from vlv.inference.bulk.output import KEPT, OK, Record, counts_of, records, unmark
from vlv.inference.bulk.plan import Plan, Shard, read_plan
from vlv.inference.caption_files import METADATA, Sidecars

FAILED = "failed.jsonl"


@dataclass
class Unfamiliar:
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
    """How many images came to what: `ok`, `kept`, or the reason of a failure; and which of those
    with a caption are unfamiliar, as far as the model knows.
    """

    counts: Counter[str]
    unfamiliar: Unfamiliar

    @property
    def images(self) -> int:
        """All that the source holds."""
        return self.counts.total()

    @property
    def failed(self) -> Counter[str]:
        """Failures by reason."""
        return failures(self.counts)


def failures(counts: Counter[str]) -> Counter[str]:
    """Those of some counts that are failures."""
    return Counter({status: count for status, count in counts.items() if status not in (OK, KEPT)})


def close(job: Job, plan: Plan) -> Report:
    """Count a finished job and write failed.jsonl, and metadata.jsonl where the format has it.

    Raises:
        DatasetError: what lies on the disk does not add up; the next run mends it.
    """
    counts, unfamiliar = Counter[str](), Unfamiliar()
    with ExitStack() as files:
        failed = _opened(files, job.folder / FAILED)
        metadata = (
            _opened(files, job.target / METADATA)
            if job.output_format in ("jsonl", "folder")
            else None
        )
        for shard in read_plan(job.folder):
            counts += _add(job, shard, failed, metadata, unfamiliar)
        if plan.images is not None and counts.total() != plan.images:
            raise DatasetError(
                f"{job.source} holds {plan.images} images, {job.target} accounts for "
                f"{counts.total()}; run the job again"
            )
    return Report(counts, unfamiliar)


def _opened(files: ExitStack, path: Path) -> TextIO:
    unfinished = files.enter_context(atomic_file(path))
    return files.enter_context(open(unfinished, "w", encoding="ascii"))


def _add(
    job: Job, shard: Shard, failed: TextIO, metadata: TextIO | None, unfamiliar: Unfamiliar
) -> Counter[str]:
    """Add a shard's lines to the files; what its images came to."""
    counts: Counter[str] = Counter()
    missing = None
    for record in records(job, shard):
        status = record["status"]
        counts[status] += 1
        if record.get("familiar") is False:
            unfamiliar.add(record["file_name"])
        if status not in (OK, KEPT):
            failed.write(json.dumps(record) + "\n")
        elif metadata is not None and status == OK:
            metadata.write(_metadata_line(record))
        if status == OK and job.output_format in ("txt", "folder"):
            sidecar = Sidecars(job.caption_extension).path(job.target / record["file_name"])
            if not sidecar.is_file():
                missing = sidecar
    if missing is not None or counts != counts_of(job, shard):
        unmark(job, shard)
        what = f"{missing} is missing" if missing else "its lines and counts differ"
        raise DatasetError(
            f"shard {shard.number} of {job.target} is damaged: {what}; run the job again to redo it"
        )
    return counts


def _metadata_line(record: Record) -> str:
    texts = {"texts": record["texts"]} if "texts" in record else {}
    line = {"file_name": record["file_name"], "text": record["text"], **texts}
    return json.dumps(line) + "\n"
