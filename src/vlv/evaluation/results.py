"""What every table of `vlv eval` reports: its progress, and a result with its provenance.

A result has rows of figures and claims with verdicts. It is written as JSON and read back the same.
This module measures nothing and prints nothing.
"""

import hashlib
import math
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch

from vlv.checkpoints.parts import CONFIG_FILE, GENERATION_FILE, PROCESSOR_FILE, RUN_FOLDER
from vlv.errors import ConfigError
from vlv.evaluation.metrics.statistics import Figure
from vlv.models.boxes import ModelBoxes
from vlv.text import read_object
from vlv.version import __version__

T = TypeVar("T")
Verdict = Literal["confirmed", "unconfirmed", "contradicted"]
Label = str | int | float
# The label that names the table of a row, where a result has several.
PART = "part"
# Components of a model folder that change no caption and no picture.
CHECKS = ("ood_detector", "verifier")
# The model card, and what only transformers reads.
_DESCRIPTIONS = ("README.md", CONFIG_FILE, GENERATION_FILE, PROCESSOR_FILE)
_BESIDE_ADAPTERS = (*_DESCRIPTIONS, RUN_FOLDER)
_LIBRARIES = ("torch", "transformers", "diffusers", "numpy", "scipy")


@dataclass(frozen=True)
class Row:
    """Figures of one condition. labels: heading of a column -> its cell; they describe it.

    count: the scenes, questions or pairs behind the figures.
    """

    labels: dict[str, Label]
    count: int
    figures: dict[str, Figure]


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, and what is measured in the embedded world.

    statement: one sentence. paper: the paper's own figures, with their table. measure: what
    `difference` is. The difference is positive where the statement holds; its interval decides.
    """

    statement: str
    paper: str
    measure: str
    difference: Figure

    @property
    def verdict(self) -> Verdict:
        """Confirmed or contradicted if the whole 95% interval is on one side of zero."""
        if self.difference.low > 0:
            return "confirmed"
        return "contradicted" if self.difference.high < 0 else "unconfirmed"


@dataclass(frozen=True)
class Result:
    """One table. paper: what it is the counterpart of. notes: how to read its figures."""

    name: str
    title: str
    paper: str
    rows: list[Row]
    claims: list[Claim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def row(self, **labels: Label) -> Row:
        """The only row that has all these labels."""
        (found,) = (row for row in self.rows if labels.items() <= row.labels.items())
        return found


def row_groups(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows of one table each: those of one part or, without parts, those that share a figure."""
    groups: list[list[Row]] = []
    for row in rows:
        for group in groups:
            if _one_table(group, row):
                group.append(row)
                break
        else:
            groups.append([row])
    return groups


def _one_table(group: list[Row], row: Row) -> bool:
    part = row.labels.get(PART)
    if part != group[0].labels.get(PART):
        return False
    return part is not None or any(row.figures.keys() & other.figures for other in group)


def to_json(result: Result) -> dict[str, Any]:
    """The result as JSON values, with the verdicts. What could not be measured is null."""
    data = asdict(result)
    for entry, claim in zip(data["claims"], result.claims, strict=True):
        entry["verdict"] = claim.verdict
    cleaned: dict[str, Any] = without_nan(data)
    return cleaned


def from_json(data: dict[str, Any]) -> Result:
    """The inverse of `to_json`."""
    return Result(
        **{name: data[name] for name in ("name", "title", "paper", "notes", "provenance")},
        rows=[
            Row(
                row["labels"],
                row["count"],
                {name: _figure(entry) for name, entry in row["figures"].items()},
            )
            for row in data["rows"]
        ],
        claims=[
            Claim(
                claim["statement"], claim["paper"], claim["measure"], _figure(claim["difference"])
            )
            for claim in data["claims"]
        ],
    )


def read_result(path: Path) -> Result:
    """A result that `vlv eval` wrote.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    data = read_object(path, ConfigError)
    try:
        return from_json(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} does not hold a result of `vlv eval` ({error!r}); remove it to measure anew"
        ) from error


def without_nan(value: Any) -> Any:
    """JSON values in which NaN and infinity are null."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _figure(entry: dict[str, float | None]) -> Figure:
    """By name: the keys of a JSON object have no order."""
    names = [one.name for one in fields(Figure)]
    if entry.keys() != set(names):
        raise ValueError(f"a figure has {', '.join(names)}")
    parts = {name: math.nan if value is None else float(value) for name, value in entry.items()}
    return Figure(**parts)


def folder_hash(folder: Path, components: Iterable[str] = (".",)) -> str:
    """SHA-256 over the names and bytes of all files of a model folder, or of those components."""
    digest = hashlib.sha256()
    places = [folder / name for name in components]
    files = {file for place in places for file in (place, *place.rglob("*")) if file.is_file()}
    for path in sorted(files):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def model_hash(folder: Path) -> str:
    """`folder_hash` of what captions and pictures depend on: no `CHECKS`, no model card, and
    nothing that only transformers reads.
    """
    left_out = {*CHECKS, *_DESCRIPTIONS}
    rest = sorted(path.name for path in folder.iterdir() if path.name not in left_out)
    return folder_hash(folder, rest)


def opened_hash(model: ModelBoxes, of: Callable[[Path], str] = model_hash) -> str:
    """The hash of the folder that a model was opened from. A fine-tune has one of its own folder,
    without the run that made it, and of its base's.
    """
    folder, base = model.opened_from, model.folder
    assert folder is not None and base is not None  # it was opened from one
    if folder == base:
        return of(folder)
    own = sorted(path.name for path in folder.iterdir() if path.name not in _BESIDE_ADAPTERS)
    return hashlib.sha256(f"{folder_hash(folder, own)}\0{of(base)}".encode()).hexdigest()


def environment() -> dict[str, Any]:
    """Versions, machine and threads, as JSON values."""
    return {
        "vlv": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _LIBRARIES},
        "platform": platform.platform(),
        "num_threads": torch.get_num_threads(),
    }


class Progress(Protocol):
    """Yields items, and may show how many of `total` are done."""

    def __call__(
        self, items: Iterable[T], *, total: int, unit: str, description: str
    ) -> Iterator[T]:
        """The items, in order."""
        ...


def silent(items: Iterable[T], *, total: int, unit: str, description: str) -> Iterator[T]:
    """Shows nothing."""
    return iter(items)
