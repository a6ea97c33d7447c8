"""`vlv reproduce`: a report that is measured once, goes on, loses no table, and can be read."""

import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from vlv import __version__
from vlv.errors import ConfigError
from vlv.evaluation.metrics.statistics import Figure
from vlv.evaluation.registry import TABLES
from vlv.evaluation.report_document import slug
from vlv.evaluation.report_pages import QUESTION, write_report
from vlv.evaluation.report_plots import numeric_label, plots, row_labels
from vlv.evaluation.report_scenes import Scenes
from vlv.evaluation.report_svg import ticks
from vlv.evaluation.reproduction import Failure, Report, preset_folder, presets, read_preset
from vlv.evaluation.results import Claim, Label, Result, Row, read_result

NAN = math.nan
SVG = "{http://www.w3.org/2000/svg}"
VOID = {"meta", "img", "br", "circle", "line", "polygon", "polyline", "rect"}


class Page(HTMLParser):
    """Reads a page strictly: every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [told["id"] or ""] if "id" in told else []
        self.targets += [told[key] or "" for key in ("href", "src") if key in told]
        assert tag != "script"

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def check_pages(folder: Path) -> tuple[str, str]:
    """Both pages as text, in which every link leads to a file or heading that is there."""
    html, markdown = ((folder / f"report.{kind}").read_text("utf-8") for kind in ("html", "md"))
    page = Page(html)
    assert len(set(page.ids)) == len(page.ids)
    slugs = [slug(title) for title in re.findall(r"^#+ (.*)$", markdown, re.MULTILINE)]
    targets = re.findall(r"\]\(([^)]*)\)", markdown)
    assert targets
    for target, anchors in [(one, page.ids) for one in page.targets] + [
        (one, slugs) for one in targets
    ]:
        if target.startswith("#"):
            assert target[1:] in anchors
        else:
            assert (folder / target).is_file(), target
    return " ".join(" ".join(page.words).split()), markdown


def figure(value: float, half: float = 0.1) -> Figure:
    return Figure(value, value - half, value + half)


def result(name: str, rows: list[Row], claims: list[Claim], notes: list[str]) -> Result:
    told = {
        "config": {"count": 20, "split": "test", "seed": 0},
        "weights": {"model": "ab" * 32},
        "code_version": __version__,
        "date": "2026-01-02",
        "machine": "2 CPU cores",
        "environment": {"vlv": __version__, "torch": "2", "num_threads": 2},
        "seconds": 12.5,
    }
    return Result(name, "A title", "Table 1", rows, claims, notes, {"reproduction": told})


def row(count: int = 20, value: float = 0.5, **labels: Label) -> Row:
    return Row(labels, count, {"f1": figure(value)})


class TestEndToEnd:
    @pytest.fixture
    def preset(self, model_dir: Path, inspector_dir: Path, tmp_path: Path) -> Path:
        """mini and vqa on tiny models, and arena on a model that is not there."""
        folder = tmp_path / "tiny"
        folder.mkdir()
        for name, model in (("mini", model_dir), ("vqa", model_dir), ("arena", tmp_path / "no")):
            self.write(folder, name, model, inspector_dir)
        return folder

    @staticmethod
    def write(folder: Path, name: str, model: Path, inspector: Path, count: int = 4) -> None:
        (folder / f"{name}.yaml").write_text(
            f"model: {model}\ninspector: {inspector}\ncount: {count}\nnum_inference_steps: 1\n"
            "num_beams: 1\ndevice: cpu\n" + ("guidance_sweep: []\n" if name == "mini" else "")
        )

    def test_a_report_goes_on_where_it_was_cut_off(
        self,
        preset: Path,
        model_dir: Path,
        inspector_dir: Path,
        tmp_path: Path,
        vlv: Callable[..., Any],
    ) -> None:
        output = tmp_path / "report"
        command = ["reproduce", "--preset", preset, "--output", output]

        def changed() -> dict[str, int]:
            files = [*output.glob("results/*.json"), *output.glob("pictures/*.png")]
            return {path.stem: path.stat().st_mtime_ns for path in files}

        ran = vlv(*command)
        assert ran.code == 1
        assert "vlv: arena could not be measured: CheckpointError" in ran.err
        first = changed()
        assert first.keys() == {"mini", "vqa", "scenes"}
        page, _ = check_pages(output)
        assert "Could not be measured: arena" in page
        assert f"{tmp_path / 'no'}" in page
        assert page.count("What the model sees and says") == 1

        self.write(preset, "arena", model_dir, inspector_dir)
        (output / "results" / "mini.json").unlink()
        ran = vlv(*command)
        assert ran.code == 0, ran.err
        second = changed()
        assert second.keys() == {"mini", "vqa", "arena", "scenes"}
        assert second["mini"] != first["mini"]
        assert (second["vqa"], second["scenes"]) == (first["vqa"], first["scenes"])
        page, markdown = check_pages(output)
        assert "Could not be measured:" not in page
        order = [markdown.index(f"\n## {name}: ") for name in ("mini", "vqa", "arena")]
        assert order == sorted(order)
        # `vlv eval mini` has a table for each of its parts.
        headings = ("Pictures", "Objects", "Captions")
        assert all(markdown.count(f"\n### {heading}\n") == 1 for heading in headings)
        mini = read_result(output / "results" / "mini.json")
        assert mini.row(part="pictures", **{"drawn from": "control: mean z"}).count == 4
        assert mini.row(captions="true captions").figures["precision"].value == 1
        assert [claim.difference for claim in mini.claims]
        assert len(mini.claims) == 2

        self.write(preset, "vqa", model_dir, inspector_dir, count=3)
        data = json.loads((output / "results" / "arena.json").read_text())
        data["provenance"]["reproduction"]["weights"]["model"] = "of other weights"
        (output / "results" / "arena.json").write_text(json.dumps(data))
        second = changed()
        assert vlv(*command).code == 0
        third = changed()
        assert {name for name in third if third[name] != second[name]} == {"vqa", "arena"}
        assert "Count 3, split test, seed 0" in check_pages(output)[0]

    def test_wrong_presets_are_told_before_the_work(
        self, preset: Path, vlv: Callable[..., Any], tmp_path: Path
    ) -> None:
        (preset / "vqua.yaml").write_text("count: 4\n")
        ran = vlv("reproduce", "--preset", preset, "--output", tmp_path / "out")
        assert (ran.code, "did you mean vqa?" in ran.err) == (2, True)
        (preset / "vqua.yaml").unlink()
        (preset / "verify.yml").write_text("count: 4\n")
        ran = vlv("reproduce", "--preset", preset, "--output", tmp_path / "out")
        assert ran.code == 2 and "reports have no table verify" in ran.err
        (preset / "verify.yml").unlink()
        (preset / "vqa.yaml").write_text("cuont: 4\n")
        ran = vlv("reproduce", "--preset", preset, "--output", tmp_path / "out")
        assert (ran.code, "did you mean count?" in ran.err) == (2, True)
        assert not (tmp_path / "out").exists()


class TestPresets:
    def test_each_has_all_tables_of_the_shipped_weights_in_order(self) -> None:
        assert presets() == ["full", "quick"]
        for name in presets():
            folder = preset_folder(name)
            assert folder is not None
            found = list(read_preset(folder))
            assert {"fid", "vqa", "arena", "compose", "bottleneck", "cost"} <= set(found)
            assert found == [table for table in TABLES if table in found]

    def test_full_measures_at_least_as_many_scenes_as_the_tables_need(self) -> None:
        folder = preset_folder("full")
        assert folder is not None
        configs = read_preset(folder)
        assert min(config.count for config in configs.values()) >= 500

    def test_folders_of_training_are_no_reports(self, tmp_path: Path) -> None:
        (tmp_path / "stage1.yaml").write_text("output_dir: out\n")
        assert preset_folder(str(tmp_path)) is None
        assert preset_folder("mini") is None
        with pytest.raises(ConfigError, match="no table 'stage1'"):
            read_preset(tmp_path)


class TestPages:
    CLAIMS = (
        Claim("Holds.", "Table 1: 2 > 1", "a above b", figure(0.3)),
        Claim("May <b>hold</b>.", "Table 2: 1 | 2", "c above d", figure(0.05)),
        Claim("Does not hold.", "Table 3", "e above f", figure(-0.3)),
        Claim("Unknown.", "Table 4", "g above h", Figure(NAN, NAN, NAN)),
    )

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        rows = [row(arm=arm, pairs=pairs) for arm in ("with", "without") for pairs in (100, 1000)]
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
            assert "Of 5 claims, 1 are confirmed, 2 are not confirmed, and 2 are contra" in text
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
        assert "| arm | pairs | F1 ↑ | n |\n| --- | --- | ---: | ---: |\n| with | 100 |" in one
        assert "| without | 1000 | 0.500 ±0.100 | 20 |" in one
        assert "### How to read the figures" in one
        assert "### What limits it\n\n- Too few scenes." in two
        # Rows that share no figure stand in tables of their own.
        assert "| captions | words | n |\n| --- | ---: | ---: |" in two
        assert r"| own & \<true\> | 30.2 ±0.5 | 7 |" in two
        assert "### What limits it\n\n- Nothing is known of it yet." in three

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
        with Image.open(tmp_path / "pictures" / "compose.png") as picture:
            assert picture.format == "PNG"
            assert picture.width > 100


class TestPlots:
    def test_numbers_that_change_along_a_line_are_an_axis(self) -> None:
        lines = [row(arm=arm, pairs=n) for arm in ("a", "b") for n in (3, 30)]
        assert numeric_label(lines) == "pairs"
        assert numeric_label([row(arm="a", pairs=3), row(arm="b", pairs=30)]) is None
        assert numeric_label([row(arm="a"), row(arm="b")]) is None
        assert row_labels(lines, without="pairs") == ["a", "a", "b", "b"]
        assert row_labels([row(arm="a", guidance=2.0), row(arm="b", guidance=1.0)]) == ["a", "b"]
        assert row_labels([row(arm="a", n=2), row(arm="a", n=1)]) == ["n 2", "n 1"]

    def test_points_stand_where_their_figures_are(self) -> None:
        rows = [row(pairs=10, value=0.2), row(pairs=100, value=0.8), row(pairs=1000, value=0.5)]
        (plot,) = plots([*rows, row(value=0.9, captions="true")])
        root = ElementTree.fromstring(plot.svg)
        points = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root.iter(f"{SVG}circle")]
        (x1, y1), (x2, y2), (x3, y3) = points[:3]
        assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)  # powers of ten, a logarithmic axis
        assert (y1 - y2) == pytest.approx(2 * (y1 - y3), abs=0.2)
        assert "F1 (higher is better) against pairs" in plot.svg
        dashed = [line for line in root.iter(f"{SVG}line") if "stroke-dasharray" in line.attrib]
        # A row without the number is a level; the other dashes are its sign in the legend.
        assert float(dashed[0].attrib["y1"]) == pytest.approx(y2 - (y1 - y2) / 6, abs=0.2)
        texts = [text.text for text in root.iter(f"{SVG}text")]
        assert {"10", "100", "1,000", "true", "pairs"} <= set(texts)

    def test_categories_are_dots_with_intervals(self) -> None:
        rows = [row(captions="own & <true>", value=0.2), row(captions="shuffled", value=0.6)]
        blank = Row({"captions": "none"}, 3, {"f1": Figure(NAN, NAN, NAN)})
        (plot,) = plots([*rows, blank])
        root = ElementTree.fromstring(plot.svg)
        assert len(list(root.iter(f"{SVG}circle"))) == 2
        bars = [line for line in root.iter(f"{SVG}line") if line.attrib["stroke-width"] == "2.5"]
        widths = [float(bar.attrib["x2"]) - float(bar.attrib["x1"]) for bar in bars]
        assert widths == pytest.approx([widths[0], widths[0]], abs=0.2)
        first, second = (float(c.attrib["cx"]) for c in root.iter(f"{SVG}circle"))
        assert second - first == pytest.approx(2 * widths[0], abs=0.3)
        assert "own & <true>" in [text.text for text in root.iter(f"{SVG}text")]

    def test_a_reference_that_is_far_off_is_told_in_words(self) -> None:
        rows = [row(pairs=1, value=0.3), row(pairs=2, value=0.4), row(value=0.9, captions="none")]
        (plot,) = plots(rows)
        root = ElementTree.fromstring(plot.svg)
        assert "none: 0.900 ±0.100, off the axis" in [text.text for text in root.iter(f"{SVG}text")]
        dashed = [line for line in root.iter(f"{SVG}line") if "stroke-dasharray" in line.attrib]
        assert len(dashed) == 1  # its sign in the legend

    def test_an_interval_that_dwarfs_the_values_ends_at_the_edge(self) -> None:
        wild = Row({"arm": "b"}, 5, {"f1": Figure(0.4, -9, 9)})
        (plot,) = plots([row(arm="a", value=0.3), wild])
        places = [
            float(line.attrib[end])
            for line in ElementTree.fromstring(plot.svg).iter(f"{SVG}line")
            for end in ("x1", "x2")
        ]
        first, second = (
            float(c.attrib["cx"]) for c in ElementTree.fromstring(plot.svg).iter(f"{SVG}circle")
        )
        # The axis goes as far beyond the values as they lie apart, and a little more.
        assert max(places) - second == pytest.approx(1.18 * (second - first), abs=0.3)

    def test_the_first_figures_are_plotted_and_lone_ones_are_not(self) -> None:
        figures = {name: figure(0.5) for name in ("f1", "psnr", "recall", "words")}
        rows = [Row({"arm": arm}, 5, figures) for arm in "ab"]
        assert [plot.figure for plot in plots(rows)] == ["f1", "psnr", "recall"]
        assert plots(rows[:1]) == []

    def test_ticks_are_round_numbers_within_the_range(self) -> None:
        assert ticks(0.02, 1.03) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
        assert ticks(-3, 107) == pytest.approx([0, 20, 40, 60, 80, 100])
        assert ticks(0.4996, 0.5004) == pytest.approx([0.4996, 0.4998, 0.5, 0.5002, 0.5004])
