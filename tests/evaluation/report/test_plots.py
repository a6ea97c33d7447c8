"""Which plots show a table, and where their points are."""

import math
from xml.etree import ElementTree

import pytest

from vlv.evaluation.metrics.columns import Column
from vlv.evaluation.metrics.statistics import Figure
from vlv.evaluation.report.charts import Panel, Series, line_chart
from vlv.evaluation.report.plots import Plot, numeric_label, plot, row_labels
from vlv.evaluation.results import Label, Row

NAN = math.nan
SVG = "{http://www.w3.org/2000/svg}"
Marks = list[tuple[float, float]]


def figure(value: float, half: float = 0.1) -> Figure:
    return Figure(value, value - half, value + half)


def row(value: float = 0.5, **labels: Label) -> Row:
    return Row(labels, 20, {"f1": figure(value)})


def plotted(rows: list[Row]) -> Plot:
    found = plot(rows)
    assert found is not None
    return found


def marks(svg: str) -> list[Marks]:
    """Places of marks that belong together: lower and upper ends of intervals, then values."""
    groups = []
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        uses = [one for one in group.findall(f"{SVG}use") if "#1b1f24" not in one.attrib["style"]]
        groups += [[(float(one.attrib["x"]), float(one.attrib["y"])) for one in uses]]
    return [group for group in groups if group]


def texts(svg: str) -> list[str | None]:
    return [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


class TestLabels:
    def test_numbers_that_change_along_a_line_are_an_axis(self) -> None:
        lines = [row(data=name, pairs=n) for name in ("a", "b") for n in (3, 30, 300)]
        assert numeric_label(lines) == "pairs"
        assert row_labels(lines, without="pairs") == [*"aaabbb"]

    def test_two_points_are_no_line(self) -> None:
        assert numeric_label([row(data=name, pairs=n) for name in "ab" for n in (3, 30)]) is None
        assert numeric_label([row(data="a"), row(data="b")]) is None

    def test_rows_beside_the_lines_are_the_fewer(self) -> None:
        lines = [row(pairs=n) for n in (3, 30, 300)]
        categories = [row(data=name) for name in "abc"]
        assert numeric_label([*lines, *categories[:2]]) == "pairs"
        assert numeric_label([*lines, *categories]) is None

    def test_numbers_that_words_make_superfluous_are_not_repeated(self) -> None:
        guidance = [row(data="a", guidance=2.0), row(data="b", guidance=1.0)]
        assert row_labels(guidance) == ["a", "b"]
        assert row_labels([row(data="a", n=2), row(data="a", n=1)]) == ["n 2", "n 1"]
        # One line, though its ends were trained with more seeds than its middle.
        seeds = [row(data=d, pairs=n, seeds=s) for d in "ab" for n, s in ((1, 3), (2, 1), (3, 3))]
        assert row_labels(seeds, without="pairs") == [*"aaabbb"]
        assert len(marks(plotted(seeds).svg)[0]) == 3


class TestLines:
    def test_points_are_where_their_figures_are(self) -> None:
        rows = [row(0.2, pairs=10), row(0.8, pairs=100), row(0.5, pairs=1000)]
        svg = plotted([*rows, row(0.9, captions="true")]).svg
        low, high, values, *_ = marks(svg)
        (x1, y1), (x2, y2), (x3, y3) = values
        assert x2 - x1 == pytest.approx(x3 - x2, abs=0.01)  # powers of ten, a logarithmic axis
        assert (y1 - y2) == pytest.approx(2 * (y1 - y3), abs=0.01)
        half = (y1 - y2) / 6
        assert [y - half for _, y in low] == pytest.approx([y1, y2, y3], abs=0.01)
        assert [y + half for _, y in high] == pytest.approx([y1, y2, y3], abs=0.01)
        assert {"10", "100", "1,000", "true", "pairs", "F1 ↑"} <= set(texts(svg))

    @pytest.mark.parametrize("apart", [True, False])
    def test_only_series_that_share_their_places_are_drawn_beside_each_other(
        self, apart: bool
    ) -> None:
        """Places of their own stand where they were measured."""
        starts = (0.0, 0.3, 0.6) if apart else (0.0, 0.0, 0.0)
        series = [
            Series(f"{at}", [(start + n + 0.1, figure(0.5)) for n in range(4)])
            for at, start in enumerate(starts)
        ]
        svg = line_chart([Panel(Column("loss"), series)], "TFLOP")
        found = [[x for x, _ in points] for points in marks(svg) if len(points) == 4]
        step = found[0][1] - found[0][0]
        first = sorted({round(xs[0], 3) for xs in found})
        gaps = [(place - first[0]) / step for place in first]
        if apart:
            assert gaps == pytest.approx(starts, abs=0.01)
        else:
            assert gaps[0] < gaps[1] < gaps[2] < 0.2

    def test_a_row_without_the_number_is_a_dashed_level(self) -> None:
        rows = [row(0.2, pairs=10), row(0.8, pairs=100), row(0.5, pairs=1000)]
        svg = plotted([*rows, row(0.9, captions="true")]).svg
        (_, y1), (_, y2), _ = marks(svg)[2]
        paths = ElementTree.fromstring(svg).iter(f"{SVG}path")
        dashed = [one.attrib["d"] for one in paths if "stroke-dasharray" in one.attrib["style"]]
        level = float(dashed[0].split()[2])
        assert level == pytest.approx(y2 - (y1 - y2) / 6, abs=0.01)

    def test_a_level_that_is_far_off_is_written_below(self) -> None:
        rows = [row(0.3, pairs=1), row(0.4, pairs=2), row(0.35, pairs=3)]
        svg = plotted([*rows, row(0.9, captions="none")]).svg
        assert "off the axis: none 0.900" in " ".join(filter(None, texts(svg)))
        assert "stroke-dasharray" not in svg

    def test_series_have_their_own_colours_and_marks(self) -> None:
        svg = plotted([row(data=name, pairs=n) for name in "ab" for n in (1, 2, 3)]).svg
        assert "#0072b2" in svg and "#d55e00" in svg
        assert {"a", "b"} <= set(texts(svg))


class TestDots:
    def test_categories_are_dots_with_intervals(self) -> None:
        rows = [row(0.2, captions="own & <true>"), row(0.6, captions="shuffled")]
        unknown = Row({"captions": "none"}, 3, {"f1": Figure(NAN, NAN, NAN)})
        svg = plotted([*rows, unknown]).svg
        low, high, values = marks(svg)
        assert len(values) == 2
        widths = [right - left for (left, _), (right, _) in zip(low, high, strict=True)]
        assert widths == pytest.approx([widths[0], widths[0]], abs=0.01)
        assert values[1][0] - values[0][0] == pytest.approx(2 * widths[0], abs=0.01)
        assert "own & <true>" in texts(svg)
        assert "none" not in texts(svg)

    def test_an_interval_that_dwarfs_the_values_ends_at_the_edge(self) -> None:
        wild = Row({"data": "b"}, 5, {"f1": Figure(0.4, -9, 9)})
        svg = plotted([row(0.3, data="a"), wild]).svg
        (first, _), (second, _) = marks(svg)[-1]
        # The dots are still apart: the axis ends soon after the values.
        assert second - first > 30

    def test_quantities_over_orders_of_magnitude_are_logarithmic(self) -> None:
        rows = [
            Row({"stage": name}, 1, {"hours": Figure(value, NAN, NAN)})
            for name, value in (("a", 0.1), ("b", 1.0), ("c", 10.0))
        ]
        (a, _), (b, _), (c, _) = marks(plotted(rows).svg)[-1]
        assert b - a == pytest.approx(c - b, abs=0.01)


def test_the_first_figures_share_a_plot_and_single_ones_have_none() -> None:
    figures = {name: figure(0.5) for name in ("f1", "psnr", "recall", "words")}
    rows = [Row({"data": name}, 5, figures) for name in "ab"]
    found = plotted(rows)
    assert {"F1 ↑", "PSNR dB ↑", "recall % ↑"} <= set(texts(found.svg))
    assert "words" not in texts(found.svg)
    assert "F1, PSNR dB, recall % of each row" in found.alt
    assert plot(rows[:1]) is None


def test_the_same_rows_give_the_same_bytes() -> None:
    rows = [row(data=name, pairs=n) for name in "ab" for n in (1, 2, 3)]
    assert plotted(rows).svg == plotted(rows).svg
    assert "<dc:date>" not in plotted(rows).svg
