"""A curation job: what it does, and its folder `.vlv-curate` in the folder of results.

    job.json          the settings and the shards of the source
    names-*.jsonl     the images, if the source is a folder
    records/          examined shards: what is known of each image
    duplicates.parquet
    written/          finished shards: counts; dropped/, examples/: their parts of the report

All of it but job.json is removed when the job is complete.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from vlv.data.curation.blocklist import Blocklist
from vlv.data.curation.hashes import BITS
from vlv.data.curation.rules import Rule
from vlv.data.images import MAX_PIXELS
from vlv.data.remote.locations import SetFile, anywhere, set_file
from vlv.errors import ConfigError, DatasetError
from vlv.files import exclusive_lock, write_text
from vlv.text import printable, read_object
from vlv.unfinished import remove_unfinished

FOLDER = ".vlv-curate"
SUMMARY, DROPPED, PAGE = "curation.json", "dropped.jsonl", "curation.html"
_WORK = ("records", "written", "dropped", "examples", "spill")
# A process that was killed holds its lock until the system has ended it.
_PATIENCE = 20.0

Kind = Literal["links", "folder", "webdataset", "parquet"]
OutputFormat = Literal["webdataset", "parquet"]
Duplicates = Literal["near", "exact", "keep"]


@dataclass(frozen=True)
class Shard:
    """A part of the source that is done as a whole.

    A file, by its name and the address at which it is found again; or `count` images of a folder,
    from byte `first` of the list of names on. `state` changes when they do.
    """

    number: int
    file: str
    state: str
    first: int = 0
    count: int = 0
    address: str = ""


@dataclass(frozen=True)
class Job:
    """What decides the results of a job: equal jobs write the same bytes."""

    source: Path
    target: Path
    kind: Kind
    shards: tuple[Shard, ...]
    rules: tuple[Rule, ...] = ()
    blocklist: Blocklist = field(default_factory=Blocklist)
    duplicates: Duplicates = "near"
    max_distance: int = 12
    keep_plain: bool = False
    output_format: OutputFormat = "webdataset"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if not 0 <= self.max_distance <= BITS // 8:
            raise ConfigError(f"--max-distance is 0 to {BITS // 8} bits, not {self.max_distance}")

    @property
    def folder(self) -> Path:
        """The folder of the job's own files."""
        return self.target / FOLDER

    def path(self, kind: str, number: int, suffix: str) -> Path:
        """A file of a shard."""
        return self.folder / kind / f"{number:05d}{suffix}"

    def file(self, shard: Shard) -> SetFile:
        """The file of a shard of a source that is no folder of images.

        Raises:
            DatasetError: it is in a store that does not give it.
        """
        return set_file(shard.address)

    def anywhere(self) -> "Job":
        """The job for processes that may start in any folder."""
        return replace(self, source=Path(anywhere(self.source)), target=self.target.absolute())

    def settings(self) -> dict[str, Any]:
        """Everything that decides the results, as JSON."""
        about = asdict(self)
        del about["target"], about["shards"]
        about["source"] = anywhere(self.source)
        about["blocklist"] = _digest(
            {name: sorted(map(str, values)) for name, values in about["blocklist"].items()}
        )
        about["list of shards"] = _digest([asdict(shard) for shard in self.shards])
        return dict(json.loads(json.dumps(about)))


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


@contextmanager
def job_lock(target: Path) -> Iterator[None]:
    """Inside, no other process curates into `target`.

    Raises:
        DatasetError: one still does.
        ConfigError: the folder holds something else.
    """
    _check_target(target)
    (target / FOLDER).mkdir(parents=True, exist_ok=True)
    busy = DatasetError(
        f"another process curates into {printable(target)}; let it end, or name another folder"
    )
    with exclusive_lock(target / FOLDER / ".lock", busy, patience=_PATIENCE):
        yield


def _check_target(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise ConfigError(
            f"{printable(target)} exists already and is no folder; choose another name"
        )
    if target.is_dir() and not (target / FOLDER).is_dir() and any(target.iterdir()):
        raise ConfigError(f"{printable(target)} holds other files already; name a new folder")


def begin(job: Job) -> bool:
    """Record the job, or check that it is the recorded one; whether it is complete already.

    Raises:
        ConfigError: the folder holds another job's results.
    """
    record = job.folder / "job.json"
    settings = job.settings()
    if record.is_file():
        known = read_object(record, DatasetError)
        is_complete = bool(known.get("complete", False))
        changed = sorted(name for name in settings if known.get(name) != settings[name])
        if changed and (is_complete or has_results(job.target)):
            raise ConfigError(
                f"{printable(job.target)} holds the results of a curation with another "
                f"{' and another '.join(changed)}; name a new folder"
            )
        if is_complete:
            _remove_work(job)
            return True
    write_json(record, settings)
    _remove_unfinished(job.target)
    for name in _WORK:
        (job.folder / name).mkdir(exist_ok=True)
    return False


def has_results(target: Path) -> bool:
    """Whether a job was begun that has results, so that it can only go on."""
    return any(any((target / FOLDER / name).glob("[0-9]*")) for name in ("records", "written"))


def complete(job: Job) -> None:
    """Mark the job as complete and remove its work."""
    write_json(job.folder / "job.json", {**job.settings(), "complete": True})
    _remove_work(job)


def _remove_work(job: Job) -> None:
    """Remove everything but the record of the job."""
    _remove_unfinished(job.target)
    for name in _WORK:
        shutil.rmtree(job.folder / name, ignore_errors=True)
    for path in job.folder.iterdir():
        if path.name not in ("job.json", ".lock"):
            path.unlink()


def _remove_unfinished(target: Path) -> None:
    """Remove the files that a killed process was writing."""
    inside = (target / name for name in ("urls", "dropped"))
    work = (target / FOLDER / name for name in _WORK)
    for folder in (target, target / FOLDER, *inside, *work):
        remove_unfinished(folder)


def write_json(path: Path, value: object) -> None:
    """Write JSON so that the file is complete or absent. In ASCII: a name of the source that is no
    text is the same when it is read.
    """
    write_text(path, json.dumps(value, indent=1) + "\n")
