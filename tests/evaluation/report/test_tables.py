"""Tables of results on the console."""

import io
import math

from rich.console import Console

from vlv.evaluation.metrics.statistics import Figure
from vlv.evaluation.report.tables import print_result
from vlv.evaluation.results import Claim, Result, Row


def printed(result: Result) -> str:
    file = io.StringIO()
    print_result(result, Console(file=file, width=200))
    return file.getvalue()


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
    assert printed(result).count(name) == 3


def test_a_figure_of_a_single_scene_has_no_interval() -> None:
    alone = Figure(0.5, math.nan, math.nan)
    result = Result(
        "pairs",
        "Captions",
        "none",
        rows=[Row({"captions": "ours"}, 1, {"score": alone})],
        claims=[Claim("It is better.", "none", "score", alone)],
    )
    text = printed(result)
    assert "unconfirmed: It is better. (score: +0.500; none)" in text and "nan" not in text
