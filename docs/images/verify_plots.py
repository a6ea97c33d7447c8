"""Plots for docs/verify.md from docs/eval_verify.json: AUROC by kind of error, and reliability.

python docs/images/verify_plots.py
"""

from pathlib import Path

from vlv.evaluation.metrics.columns import Column
from vlv.evaluation.report_svg import Series, dot_plot, line_plot
from vlv.evaluation.results import Row, read_result

HERE = Path(__file__).parent


def rows_of(part: str) -> list[Row]:
    rows = read_result(HERE.parent / "eval_verify.json").rows
    return [row for row in rows if row.labels["part"] == part]


def auroc_by_kind() -> str:
    rows = rows_of("errors")
    labels = [f"{row.labels['what']} ({row.count})" for row in rows]
    heading = Column("AUROC, wrong sentences against true ones (number of sentences)", better=0)
    return dot_plot(labels, [row.figures["auroc"] for row in rows], heading)


def reliability() -> str:
    rows = rows_of("reliability, own captions")
    told = [row.figures["probability"] for row in rows]
    true = [row.figures["true_share"] for row in rows]
    series = [
        Series(
            "sentences that are true", [(100 * x.value, y) for x, y in zip(told, true, strict=True)]
        ),
        Series("would be, as told", [(100 * x.value, x) for x in told]),
    ]
    return line_plot(
        series, [], "probability told, %", Column("sentences true, %", 0, 100, better=0)
    )


if __name__ == "__main__":
    (HERE / "verify-auroc.svg").write_text(auroc_by_kind() + "\n", encoding="utf-8")
    (HERE / "verify-reliability.svg").write_text(reliability() + "\n", encoding="utf-8")
