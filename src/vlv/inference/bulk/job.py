"""A job: what is captioned, how, and where to; its record on disk, which later runs must match.

Everything that a job remembers lies in the folder `.vlv-bulk` of its target:

    job.json        the settings, the source's fingerprint: written last, when the plan is complete
    plan.jsonl      the shards
    names.jsonl     the images of a folder
    00000.jsonl     of a finished shard: a line for each image, its caption or why it has none
    00000.json      marks the shard as finished; how many images came to what, and its files
    failed.jsonl    the lines of images without a caption, of all shards
    scratch/        unfinished work, of no use to anybody after a kill
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from vlv.data.images import MAX_OWN_PIXELS
from vlv.data.samples import parse_object
from vlv.errors import ConfigError
from vlv.files import atomic_file
from vlv.inference.batching import BatchSize
from vlv.inference.bulk.plan import NAMES, PLAN, Kind, Plan, kind_of, write_plan
from vlv.inference.caption_files import Sidecars
from vlv.inference.captioning import CaptionSettings

Format = Literal["jsonl", "txt", "folder", "parquet", "webdataset"]
FOLDER, RECORD, SCRATCH = ".vlv-bulk", "job.json", "scratch"
# Of a shard, unless the source comes in shards.
SHARD_SIZE = 1000
# Formats whose files can lie among the images of the source.
_BESIDE: tuple[Format, ...] = ("jsonl", "txt")
_VERSION = 1


@dataclass(frozen=True)
class Job:
    """What decides the result of a job; two jobs that are equal write the same captions.

    Args:
        source: a folder, .tar or .parquet files or a quoted pattern of them, or a saved dataset.
        target: the folder for the results; of `jsonl` and `txt` it may be the source.
        output_format: `jsonl` (one metadata.jsonl), `txt` (captions alone, in the source's tree),
            `folder` (images, captions beside them, metadata.jsonl), `parquet` or `webdataset`.
        model: as `open_model` takes it, like the four that follow it.
        captions: how captions are generated.
        batch_size: images at once; "auto" halves it where memory runs out.
        prepend: text before every caption.
        append: text after every caption.
        caption_extension: of the caption files of `txt` and `folder`.
        shard_size: images of a shard, where the source does not come in shards.
        max_pixels: larger images are refused; a job can go on with another number.
    """

    source: str
    target: Path
    output_format: Format
    model: str = "vlv-mini"
    revision: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    offload: bool = False
    captions: CaptionSettings = field(default_factory=CaptionSettings)
    batch_size: BatchSize = "auto"
    prepend: str = ""
    append: str = ""
    caption_extension: str = ".txt"
    shard_size: int = SHARD_SIZE
    max_pixels: int = MAX_OWN_PIXELS

    def __post_init__(self) -> None:
        if self.batch_size == "auto" and self.captions.samples:
            raise ConfigError(
                "samples depend on the batch size, so that auto would make them depend on the "
                "memory that is free; give a number"
            )
        if self.shard_size < 1:
            raise ConfigError(f"the shard size is 1 or more, not {self.shard_size}")

    @property
    def folder(self) -> Path:
        """Where the job's own files lie."""
        return self.target / FOLDER

    @property
    def kind(self) -> Kind:
        """The layout of the source."""
        return kind_of(self.source)

    @property
    def images_needed(self) -> bool:
        """Whether the results hold the images too."""
        return self.output_format not in _BESIDE

    def settings(self) -> dict[str, Any]:
        """All that decides the result, as JSON."""
        names = (one.name for one in fields(self) if one.name not in ("target", "max_pixels"))
        own: dict[str, Any] = {name: getattr(self, name) for name in names}
        own |= {"source": os.path.abspath(self.source), **asdict(own.pop("captions"))}
        # Rules of cleaning are functions; they go by their names.
        return dict(json.loads(json.dumps(own, default=lambda rule: rule.__name__)))


@contextmanager
def opened(job: Job, *, overwrite: bool = False) -> Iterator[Plan]:
    """The plan of a job, begun or found on disk; nobody else can open the job meanwhile.

    Raises:
        ConfigError: the target holds another job or other files, or the job is at work already.
        DatasetError: the source holds nothing readable.
    """
    kind = job.kind
    begun = (job.folder / RECORD).exists()
    if not begun:
        _check_target(job, kind, overwrite)
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(job.folder / "lock", timeout=0):
            shutil.rmtree(job.folder / SCRATCH, ignore_errors=True)
            yield _planned(job, kind, begun, overwrite)
            shutil.rmtree(job.folder / SCRATCH)
    except Timeout as error:
        raise ConfigError(f"another run of the job in {job.target} is at work") from error


def _check_target(job: Job, kind: Kind, overwrite: bool) -> None:
    target = job.target
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target} is no folder; name one for the results")
    if job.output_format in _BESIDE and kind == "folder":
        taken = target / "metadata.jsonl"
        if job.output_format == "jsonl" and taken.exists() and not overwrite:
            raise ConfigError(f"{taken} exists already; --overwrite replaces it")
    elif target.is_dir() and any(path.name != FOLDER for path in target.iterdir()):
        raise ConfigError(f"{target} holds other files already; name a new folder for the results")


def _planned(job: Job, kind: Kind, begun: bool, overwrite: bool) -> Plan:
    """Look through the source; begin the job, or see that it is the one that was begun."""
    scratch = job.folder / SCRATCH
    scratch.mkdir()
    plan = write_plan(
        job.source,
        kind,
        scratch,
        shard_size=job.shard_size,
        leave_out=job.target,
        caption_of=_caption_of(job) if kind == "folder" else None,
        keep_captions=job.output_format == "txt" and not overwrite,
    )
    record = {"version": _VERSION, **asdict(plan), "settings": job.settings()}
    if begun:
        _check_same(job, record)
    else:
        for file in (PLAN, NAMES):
            if (scratch / file).exists():
                with atomic_file(job.folder / file) as unfinished:
                    (scratch / file).rename(unfinished)
        with atomic_file(job.folder / RECORD) as unfinished:
            unfinished.write_text(json.dumps(record, indent=1) + "\n", encoding="ascii")
    return plan


def _caption_of(job: Job) -> Callable[[str], Path] | None:
    if job.output_format not in ("txt", "folder"):
        return None
    sidecars = Sidecars(job.caption_extension)
    return lambda name: sidecars.path(job.target / name)


def _check_same(job: Job, record: dict[str, Any]) -> None:
    path = job.folder / RECORD
    before = parse_object(path.read_bytes(), str(path))
    if before.get("version") != _VERSION:
        raise ConfigError(f"{job.target} holds a job of another version of vlv; name a new folder")
    old, new = before["settings"], record["settings"]
    differences = [
        f"{name} {new.get(name)!r} instead of {old.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if not differences and any(before[name] != record[name] for name in asdict(Plan("", 0, 0))):
        raise ConfigError(
            f"{job.target} holds a job on other images than {job.source} holds now: some were "
            "added, removed or renamed since; name a new folder for the results"
        )
    if differences:
        raise ConfigError(
            f"{job.target} holds the results of another job; here {', '.join(differences)}. "
            "Give the same settings to go on with that job, or name a new folder"
        )
