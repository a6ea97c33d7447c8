"""Plots for docs/verify.md from docs/eval_verify.json: AUROC by kind of error, and reliability.

python docs/images/verify_plots.py
"""

from pathlib import Path

from vlv.evaluation.metrics.columns import Column
from vlv.evaluation.report.charts import Panel, Series, dot_chart, line_chart
from vlv.evaluation.results import Row, read_result

HERE = Path(__file__).parent


def rows_of(part: str) -> list[Row]:
    rows = read_result(HERE.parent / "eval_verify.json").rows
    return [row for row in rows if row.labels["part"] == part]


def auroc_by_kind() -> str:
    rows = rows_of("errors")
    labels = [f"{row.labels['what']} ({row.count} sentences)" for row in rows]
    heading = Column("AUROC, wrong sentences against true ones", better=1)
    return dot_chart(labels, [(heading, [row.figures["auroc"] for row in rows])])


def reliability() -> str:
    rows = rows_of("reliability, own captions")
    reported = [row.figures["probability"] for row in rows]
    true = [row.figures["true_share"] for row in rows]
    pairs = list(zip(reported, true, strict=True))
    series = [
        Series("measured", [(100 * x.value, y) for x, y in pairs]),
        Series("calibrated", [(100 * x.value, x) for x in reported]),
    ]
    column = Column("true sentences, %", 0, 100, better=0)
    return line_chart([Panel(column, series)], "reported probability, %")


if __name__ == "__main__":
    (HERE / "verify-auroc.svg").write_text(auroc_by_kind(), encoding="utf-8")
    (HERE / "verify-reliability.svg").write_text(reliability(), encoding="utf-8")
