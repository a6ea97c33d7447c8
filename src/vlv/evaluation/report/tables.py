"""Rows of a result as text: the cells of a table, and tables on the console. Measures nothing."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vlv.evaluation.metrics.columns import Column, cell, column, label_text
from vlv.evaluation.results import PART, Result, Row, row_groups


def table_cells(rows: Sequence[Row]) -> tuple[list[str], list[Column], list[list[str]]]:
    """Rows of one table as text: the names of the labels, the columns of the figures, and for each
    row its cells, which are labels, figures and the count.
    """
    labels = list(dict.fromkeys(name for row in rows for name in row.labels if name != PART))
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    cells = [
        [
            *(label_text(row.labels.get(name, "")) for name in labels),
            *(
                cell(row.figures[name], column(name)) if name in row.figures else "—"
                for name in names
            ),
            str(row.count),
        ]
        for row in rows
    ]
    return labels, [column(name) for name in names], cells


def print_result(result: Result, console: Console) -> None:
    """Print the tables of a result, its notes, and the verdicts on the paper's claims."""
    console.print(f"{result.title} ({result.paper})", style="italic")
    for rows in row_groups(result.rows):
        console.print(_table(rows))
    for note in result.notes:
        console.print(note, markup=False)
    for claim in result.claims:
        figure = claim.difference
        measured = "nothing to measure"
        if not math.isnan(figure.value):
            measured = f"{figure.value:+.3f}"
            if not math.isnan(figure.low):
                measured += f", 95% {figure.low:+.3f} to {figure.high:+.3f}"
        console.print(
            f"[bold]{claim.verdict}[/bold]: "
            + escape(f"{claim.statement} ({claim.measure}: {measured}; {claim.paper})")
        )


def _table(rows: Sequence[Row]) -> Table:
    labels, columns, lines = table_cells(rows)
    part = rows[0].labels.get(PART)
    table = Table(title=None if part is None else str(part).capitalize(), title_justify="left")
    for label in labels:
        table.add_column(label)
    for heading in (*(one.heading for one in columns), "n"):
        table.add_column(heading, justify="right")
    for cells in lines:
        table.add_row(*map(escape, cells))  # names are the user's
    return table
