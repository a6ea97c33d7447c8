"""Tables of results on the console."""

import io

from rich.console import Console

from vlv.evaluation.metrics.statistics import Figure
from vlv.evaluation.report.tables import print_result
from vlv.evaluation.results import Claim, Result, Row


def test_names_are_printed_as_they_are() -> None:
    """rich would take some of them for markup, and end at others."""
    figure = Figure(0.5, 0.4, 0.6)
    name = "[/mine] [red]v2[/red]"
    result = Result(
        "pairs",
        "Captions",
        "none",
        rows=[Row({"captions": name}, 3, {"score": figure})],
        claims=[Claim(f"{name} is better.", "none", "score", figure)],
        notes=[f"Left out: 1 image without a caption by {name}."],
    )
    file = io.StringIO()
    print_result(result, Console(file=file, width=200))
    assert file.getvalue().count(name) == 3
