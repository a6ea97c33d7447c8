"""What every table of `vlv eval` comes to: rows of figures, claims with verdicts, provenance.

Measures nothing and prints nothing. A result goes to JSON and comes back the same.
"""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from vlv.errors import ConfigError
from vlv.evaluation.metrics.statistics import Figure
from vlv.text import read_object

Verdict = Literal["confirmed", "not confirmed", "contradicted"]
Label = str | int | float


@dataclass(frozen=True)
class Row:
    """Figures of one condition, which `labels` describe: heading of a column -> its cell.

    count: the scenes, questions or pairs behind the figures.
    """

    labels: dict[str, Label]
    count: int
    figures: dict[str, Figure]


@dataclass(frozen=True)
class Claim:
    """A statement of the paper and what this world says of it.

    statement: in one sentence. paper: the paper's own figures, with their table. measure: what
    `difference` is; it is positive where the statement holds, and its interval decides.
    """

    statement: str
    paper: str
    measure: str
    difference: Figure

    @property
    def verdict(self) -> Verdict:
        """Confirmed or contradicted where the whole 95% interval is on one side of zero."""
        if self.difference.low > 0:
            return "confirmed"
        return "contradicted" if self.difference.high < 0 else "not confirmed"


@dataclass(frozen=True)
class Result:
    """One table. paper: what it is the counterpart of. notes: how its figures are to be read."""

    name: str
    title: str
    paper: str
    rows: list[Row]
    claims: list[Claim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def row(self, **labels: Label) -> Row:
        """The one row that has all these labels."""
        (found,) = (row for row in self.rows if labels.items() <= row.labels.items())
        return found


def to_json(result: Result) -> dict[str, Any]:
    """As JSON values, with the verdicts; what could not be measured is null."""
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
    """By name: a JSON object has no order that anything may hang on."""
    parts = {name: math.nan if value is None else float(value) for name, value in entry.items()}
    return Figure(**parts)
