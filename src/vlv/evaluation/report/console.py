"""A result of `vlv eval` as tables on the console. Measures nothing."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from vlv.evaluation.metrics.columns import cell, column, label_text
from vlv.evaluation.results import PART, Result, Row, row_groups


def print_result(result: Result, console: Console) -> None:
    """Print the tables of a result, its notes, and the verdicts on the paper's claims."""
    console.print(f"{result.title} ({result.paper})", style="italic")
    for rows in row_groups(result.rows):
        console.print(_table(rows))
    for note in result.notes:
        console.print(note)
    for claim in result.claims:
        figure = claim.difference
        console.print(
            f"[bold]{claim.verdict}[/bold]: {claim.statement} ({claim.measure}: "
            f"{figure.value:+.3f}, 95% {figure.low:+.3f} to {figure.high:+.3f}; {claim.paper})"
        )


def _table(rows: Sequence[Row]) -> Table:
    labels = list(dict.fromkeys(name for row in rows for name in row.labels if name != PART))
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    part = rows[0].labels.get(PART)
    table = Table(title=None if part is None else str(part).capitalize(), title_justify="left")
    for label in labels:
        table.add_column(label)
    for name in (*map(_heading, names), "n"):
        table.add_column(name, justify="right")
    for row in rows:
        cells = [
            cell(row.figures[name], column(name)) if name in row.figures else "—" for name in names
        ]
        described = [label_text(row.labels.get(label, "")) for label in labels]
        table.add_row(*described, *cells, str(row.count))
    return table


def _heading(name: str) -> str:
    return column(name).heading
