"""The pages of a report, from results to HTML and Markdown."""

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.report.reading import check_pages

from vlv.evaluation.metrics.statistics import Figure
from vlv.evaluation.report.pages import QUESTION, write_report
from vlv.evaluation.reproduction import Failure, Report
from vlv.evaluation.results import Claim, Label, Result, Row
from vlv.evaluation.scenes import Scenes
from vlv.version import __version__

NAN = math.nan


def figure(value: float, half: float = 0.1) -> Figure:
    return Figure(value, value - half, value + half)


def result(name: str, rows: list[Row], claims: list[Claim], notes: list[str]) -> Result:
    measured = {
        "config": {"count": 20, "split": "test", "seed": 0},
        "weights": {"model": "ab" * 32},
        "code_version": __version__,
        "date": "2026-01-02",
        "machine": "2 CPU cores",
        "environment": {"vlv": __version__, "torch": "2", "num_threads": 2},
        "seconds": 12.5,
    }
    return Result(name, "A title", "Table 1", rows, claims, notes, {"reproduction": measured})


def row(count: int = 20, value: float = 0.5, **labels: Label) -> Row:
    return Row(labels, count, {"f1": figure(value)})


class TestPages:
    CLAIMS = (
        Claim("Holds.", "Table 1: 2 > 1", "a above b", figure(0.3)),
        Claim("May <b>hold</b>.", "Table 2: 1 | 2", "c above d", figure(0.05)),
        Claim("Does not hold.", "Table 3", "e above f", figure(-0.3)),
        Claim("Unknown.", "Table 4", "g above h", Figure(NAN, NAN, NAN)),
    )

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        rows = [
            row(training=one, pairs=pairs) for one in ("with", "without") for pairs in (100, 1000)
        ]
        words = Row({"captions": "own & <true>"}, 7, {"words": Figure(30.25, 30, 31)})
        results = [
            result("one", rows, [self.CLAIMS[0]], ["Read *so*."]),
            result("two", [*rows, words], list(self.CLAIMS[1:]), ["Too few scenes."]),
            result("three", rows, [self.CLAIMS[2]], []),
        ]
        for name in ("results/one.json", "results/two.json", "results/three.json"):
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("{}")
        (tmp_path / "pictures").mkdir()
        (tmp_path / "pictures" / "scenes.png").write_bytes(b"")
        scenes = Scenes(["A true caption."], ["Its caption."])
        report = Report("tiny", results, scenes, [Failure("four", "RuntimeError: a < b | c")])
        assert [path.name for path in write_report(report, tmp_path)] == [
            "report.html",
            "report.md",
        ]
        return tmp_path

    def test_the_first_screen_answers(self, folder: Path) -> None:
        page, markdown = check_pages(folder)
        for text in (page.partition("Provenance")[0], markdown):
            assert QUESTION in text
            assert "Of 5 claims, 1 are confirmed, 2 are unconfirmed, and 2 are contra" in text
            assert "hold in the embedded world only" in text
            assert "a above b: +0.300 (95% interval +0.200 to +0.400)" in text
            assert "g above h: could not be measured" in text
            assert f"Weights abababababab; vlv {__version__}, torch 2; measured on 2026" in text
            assert "on 2 CPU cores in 38 s" in text
        assert "| Does not hold. | **contradicted at this scale** | e above f: -0.300" in markdown
        assert "| Table 3 | [three: what limits it](#three-a-title) |" in markdown
        assert "| Table 1: 2 > 1 | [one](#one-a-title) |" in markdown.replace("\\", "")
        assert "Does not hold. contradicted at this scale e above f" in page

    def test_text_is_no_markup(self, folder: Path) -> None:
        page, markdown = check_pages(folder)
        assert "May <b>hold</b>." in page
        assert "RuntimeError: a < b | c" in page
        assert r"May \<b\>hold\</b\>." in markdown
        assert r"| Table 2: 1 \| 2 |" in markdown
        assert r"- Read \*so\*." in markdown
        assert r"- **four**: RuntimeError: a \< b \| c" in markdown

    def test_sections_show_rows_and_what_limits_them(self, folder: Path) -> None:
        _, markdown = check_pages(folder)
        one, two, three = (
            re.split(r"\n## ", markdown.partition(f"\n## {name}: ")[2])[0]
            for name in ("one", "two", "three")
        )
        assert "| training | pairs | F1 ↑ | n |\n| --- | --- | ---: | ---: |\n| with | 100 |" in one
        assert "| without | 1000 | 0.500 ±0.100 | 20 |" in one
        assert "### How to read the figures" in one
        assert "### What limits it\n\n- Too few scenes." in two
        # Rows that share no figure stand in tables of their own.
        assert "| captions | words | n |\n| --- | ---: | ---: |" in two
        assert r"| own & \<true\> | 30.2 ±0.5 | 7 |" in two
        assert "### What limits it\n\n- The cause is not known yet." in three

    def test_a_failed_report_without_figures_is_a_page_too(self, tmp_path: Path) -> None:
        write_report(Report("tiny", [], None, [Failure("mini", "OSError: full")]), tmp_path)
        page, _ = check_pages(tmp_path)
        assert "Of 0 claims" in page
        assert "OSError: full" in page

    def test_composition_is_shown_as_a_heat_map(self, tmp_path: Path) -> None:
        names = ("objects", "floor", "light")
        figures = {f"{name}_of_{side}": figure(0.5) for name in names for side in "ab"}
        figures |= {"joint": figure(0.5), "joint_reversed": figure(0.5)}
        rows = [Row({"drawn from": f"{side} alone"}, 9, figures) for side in "AB"]
        split: dict[str, Label] = {"drawn from": "A + B, leading", "keep A": 3, "together": 8}
        composed = result("compose", [*rows, Row(split, 9, figures)], [], [])
        (tmp_path / "results").mkdir()
        (tmp_path / "results" / "compose.json").write_text("{}")
        write_report(Report("tiny", [composed], None, []), tmp_path)
        check_pages(tmp_path)
        assert (tmp_path / "plots" / "compose.svg").is_file()
        # Their table has no other plot.
        assert len(list((tmp_path / "plots").iterdir())) == 1

    def test_the_html_page_holds_its_pictures(self, folder: Path, tmp_path: Path) -> None:
        page = (folder / "report.html").read_text(encoding="utf-8")
        plots = list((folder / "plots").iterdir())
        assert page.count('src="data:image/') == len(plots) + 1
        assert 'src="plots' not in page
        assert "](plots/one-1.svg)" in (folder / "report.md").read_text(encoding="utf-8")

    def test_without_matplotlib_nothing_is_measured(
        self, vlv: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        for name in ("charts", "heat_map", "plots", "pages"):
            monkeypatch.delitem(sys.modules, f"vlv.evaluation.report.{name}", raising=False)
        ran = vlv("reproduce", "--output", tmp_path / "report")
        assert ran.code == 2
        assert "pip install 'vlv[report]'" in ran.err
        assert not (tmp_path / "report").exists()
