"""Rules on columns: what a sample must fulfil, and by which reason it is dropped otherwise.

A rule is a condition in SQL with our names of columns (columns.py). A sample is dropped by the
first rule that it does not fulfil. If a rule is unknown, because a value is missing, the reason is
`no-` and the name of the rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlv.data.curation.columns import found_columns, require_columns
from vlv.data.curation.sandbox import TABLE, columns_of, import_duckdb, open_sandbox
from vlv.data.tables import import_pyarrow
from vlv.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class Rule:
    """A condition, and the name under which samples are dropped that do not fulfil it.

    value: what the report shows of a dropped sample, in SQL.
    why: the option that sets the rule, for messages.
    meaning: of the reason, in words.
    """

    reason: str
    condition: str
    value: str
    columns: tuple[str, ...]
    why: str
    meaning: str


def _number(column: str) -> str:
    """A column as a number; what is none counts as missing, as do texts among numbers."""
    return f"TRY_CAST({column} AS DOUBLE)"


_WIDTH, _HEIGHT = _number("width"), _number("height")
# The 40M images of stage 1. The paper names no aesthetic score of its own: its source,
# LAION-2B-en-aesthetic, is already selected by one.
PAPER = (
    Rule(
        "too-small",
        f"LEAST({_WIDTH}, {_HEIGHT}) > 512",
        "CAST(width AS VARCHAR) || 'x' || CAST(height AS VARCHAR)",
        ("width", "height"),
        "--paper",
        "the shorter side has 512 pixels or less",
    ),
    Rule(
        "aspect-ratio",
        f"{_WIDTH} BETWEEN 0.5 * {_HEIGHT} AND 2.0 * {_HEIGHT}",
        f"CAST(ROUND({_WIDTH} / {_HEIGHT}, 4) AS VARCHAR)",
        ("width", "height"),
        "--paper",
        "width / height is below 0.5 or above 2",
    ),
    Rule(
        "watermark",
        f"{_number('watermark')} < 0.5",
        "CAST(watermark AS VARCHAR)",
        ("watermark",),
        "--paper",
        "the probability of a watermark is 0.5 or more",
    ),
)
_UNSAFE = Rule(
    "nsfw",
    f"{_number('unsafe')} < 0.5",
    "CAST(unsafe AS VARCHAR)",
    ("unsafe",),
    "--drop-nsfw",
    "the probability that it is unsafe is 0.5 or more",
)
_LABEL = Rule(
    "nsfw",
    "UPPER(CAST(nsfw AS VARCHAR)) NOT IN ('NSFW', 'TRUE', '1')",
    "CAST(nsfw AS VARCHAR)",
    ("nsfw",),
    "--drop-nsfw",
    "it is labelled as unsafe",
)


def rules_of(
    where: Sequence[str], *, paper: bool, drop_nsfw: bool, columns: Sequence[str]
) -> tuple[Rule, ...]:
    """The rules of a command on samples with these columns.

    Raises:
        ConfigError: a condition is none, or a column is missing.
    """
    rules: list[Rule] = [*(PAPER if paper else ())]
    if drop_nsfw:
        # A probability is more exact than a label.
        has_label_only = "nsfw" in found_columns(columns) and "unsafe" not in found_columns(columns)
        rules.append(_LABEL if has_label_only else _UNSAFE)
    for expression in where:
        named = tuple(columns_of(expression))
        values = [
            f"{_text(one + ' = ')} || COALESCE(CAST({_quoted(one)} AS VARCHAR), 'missing')"
            for one in named
        ]
        value = " || ', ' || ".join(values) or "NULL"
        why = f"--where {expression!r}"
        rules.append(Rule("where", expression, value, named, why, f"not ({expression})"))
    for rule in rules:
        require_columns(rule.columns, columns, rule.why)
    return tuple(rules)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


class Judge:
    """Applies rules to tables of samples."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._database = open_sandbox()

    def verdicts(self, table: "pyarrow.Table", where: str) -> list[tuple[str, str | None] | None]:
        """For each row None, or the reason for which it is dropped and the value that shows it.

        where: what the table is, for messages.

        Raises:
            ConfigError: a condition does not fit the types of its columns.
            DatasetError: a value cannot be read as what a condition needs.
        """
        if not self._rules or not table.num_rows:
            return [None] * table.num_rows
        duckdb = import_duckdb()
        self._database.register(TABLE, _without_nan(table))
        try:
            rows = self._database.execute(self._query(table)).fetchall()
        except (duckdb.ConversionException, duckdb.OutOfRangeException) as error:
            raise DatasetError(
                f"a condition cannot be applied to {where} ({_first_line(error)}); write "
                "TRY_CAST(column AS DOUBLE) where a value may be no number"
            ) from error
        except duckdb.Error as error:
            whys = " and ".join(dict.fromkeys(rule.why for rule in self._rules))
            raise ConfigError(
                f"{whys} cannot be applied to {where} ({_first_line(error)})"
            ) from error
        finally:
            self._database.unregister(TABLE)
        return [self._verdict(row) for row in rows]

    def _query(self, table: "pyarrow.Table") -> str:
        names = {name.lower() for name in table.column_names}
        ours = [
            f"{_quoted(column)} AS {_quoted(our)}"
            for our, column in found_columns(table.column_names).items()
            if our not in names
        ]
        fields = []
        for number, rule in enumerate(self._rules):
            fields.append(f"CAST(({rule.condition}\n) AS BOOLEAN) AS keep{number}")
            fields.append(f"{rule.value} AS value{number}")
        source = f"SELECT {', '.join(['*', *ours])} FROM {TABLE}"
        return f"SELECT {', '.join(fields)} FROM ({source}) AS {TABLE}"

    def _verdict(self, row: tuple[Any, ...]) -> tuple[str, str | None] | None:
        for rule, keep, value in zip(self._rules, row[::2], row[1::2], strict=True):
            if keep is None:
                return f"no-{rule.reason}", value
            if not keep:
                return rule.reason, value
        return None


def _without_nan(table: "pyarrow.Table") -> "pyarrow.Table":
    """The table without NaN, which is the largest number for SQL, and a missing one in metadata."""
    pa, _ = import_pyarrow()
    import pyarrow.compute as pc

    for at, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            column = table.column(at)
            missing = pa.scalar(None, field.type)
            table = table.set_column(at, field, pc.if_else(pc.is_nan(column), missing, column))
    return table


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
