"""The plot of docs/evaluation.md from docs/eval_nested.json: pictures and captions by number of
first embeddings.

python docs/images/nested_plot.py
"""

from pathlib import Path

from vlv.evaluation.metrics.columns import Column
from vlv.evaluation.metrics.statistics import Figure
from vlv.evaluation.report.charts import Panel, Series, line_chart
from vlv.evaluation.results import read_result

HERE = Path(__file__).parent
COLUMNS = {
    "f1": Column("F1 of objects drawn", better=1),
    "precision": Column("claims true, %", 0, 100, better=1),
    "object_recall": Column("objects named, %", 0, 100, better=1),
}


def by_queries() -> str:
    """A line for each variant."""
    rows = read_result(HERE.parent / "eval_nested.json").rows
    panels = []
    for name, column in COLUMNS.items():
        lines: dict[str, list[tuple[float, Figure]]] = {}
        for row in rows:
            point = float(row.labels["queries"]), row.figures[name]
            lines.setdefault(str(row.labels["variant"]), []).append(point)
        panels.append(Panel(column, [Series(variant, line) for variant, line in lines.items()]))
    return line_chart(panels, "first embeddings")


if __name__ == "__main__":
    (HERE / "nested.svg").write_text(by_queries(), encoding="utf-8")
