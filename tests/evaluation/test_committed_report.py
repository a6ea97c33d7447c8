"""The committed report of the preset `full`: of the weights in the package, with ablations that
follow from what is kept of their runs. Ablations of the weights before are named on its page.
"""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.report.reading import check_pages

from vlv.checkpoints.hub import resolve
from vlv.evaluation import registry
from vlv.evaluation.ablations.shared import AblationConfig
from vlv.evaluation.metrics.columns import column, label_text
from vlv.evaluation.reproduction import MEASURED, identity, preset_folder, read_preset
from vlv.evaluation.results import CHECKS, folder_hash, model_hash, read_result, to_json
from vlv.world.inspector import DEFAULT_FOLDER

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "docs" / "reproduction"
FULL = preset_folder("full")
assert FULL is not None
TABLES = read_preset(FULL)
MINI = ("eval_mini", "eval_mini_unseen_pairs", "eval_mini_unseen_counts")
ABLATIONS = [name for name, config in TABLES.items() if isinstance(config, AblationConfig)]
# Their runs train for hours on the frozen decoder of a model: here that of the weights before.
OF_WEIGHTS_BEFORE = [
    "no-stage1",
    "self-training",
    "queries",
    "data-scale",
    "trainable",
    "lm-scale",
]
OF_THE_PACKAGE = [name for name in TABLES if name not in OF_WEIGHTS_BEFORE]


def test_every_table_was_measured_with_the_package_or_is_named() -> None:
    results = {path.stem: read_result(path) for path in (REPORT / "results").iterdir()}
    assert set(results) == set(TABLES)
    assert set(OF_WEIGHTS_BEFORE) <= set(ABLATIONS)
    package = {"model": model_hash(resolve("vlv-mini")), "inspector": folder_hash(DEFAULT_FOLDER)}
    page = (REPORT / "report.md").read_text(encoding="utf-8")
    (warning,) = re.findall(r"^\*\*.* not of the same model: .*\*\*$", page, re.M) or [""]
    for name, result in results.items():
        measured = result.provenance[MEASURED]
        assert measured["config"] == TABLES[name].model_dump(mode="json"), name
        of_package = package.items() <= measured["weights"].items()
        assert of_package == (name in OF_THE_PACKAGE), name
        assert (f" {name} ({measured['weights']['model'][:12]})" in warning) != of_package, name
        assert result.title in page


def test_the_committed_results_are_valid_without_measuring_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    for name in OF_THE_PACKAGE:
        measured = read_result(REPORT / "results" / f"{name}.json").provenance[MEASURED]
        assert identity(TABLES[name]).items() <= measured.items(), name


class TestRenderOnly:
    """`vlv reproduce --render-only`, with three tables of the committed report."""

    @pytest.fixture
    def preset(self, tmp_path: Path) -> Path:
        folder = tmp_path / "three"
        folder.mkdir()
        for name in ("mini", "vqa", "queries"):
            shutil.copy(FULL / f"{name}.yaml", folder)
        return folder

    @pytest.fixture
    def output(self, tmp_path: Path) -> Path:
        for name in ("results", "pictures"):
            shutil.copytree(REPORT / name, tmp_path / "report" / name)
        return tmp_path / "report"

    def test_pages_show_the_figures_of_the_results(
        self, preset: Path, output: Path, vlv: Callable[..., Any]
    ) -> None:
        before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
        ran = vlv("reproduce", "--preset", preset, "--output", output, "--render-only")
        assert (ran.code, ran.out.split()) == (
            0,
            [str(output / "report.html"), str(output / "report.md")],
        ), ran.err
        assert {path: path.read_bytes() for path in before} == before
        _, markdown = check_pages(output)
        committed = (REPORT / "report.md").read_text(encoding="utf-8")
        for name in ("mini", "vqa", "queries"):
            section = self.section(markdown, name)
            assert section == self.section(committed, name)
            data = json.loads((output / "results" / f"{name}.json").read_text(encoding="utf-8"))
            assert data["rows"] and data["claims"]
            for claim in data["claims"]:
                value, low, high = (claim["difference"][key] for key in ("value", "low", "high"))
                figure = f"{value:+.3f} (95% interval {low:+.3f} to {high:+.3f})"
                assert f"{claim['measure']}: {figure}" in section, claim
            shown = self.cells(section)
            for row in data["rows"]:
                expected = {
                    column(figure).heading: (entry["value"], column(figure))
                    for figure, entry in row["figures"].items()
                }
                assert any(self.agree(cells, row, expected) for cells in shown), row["labels"]

    @staticmethod
    def section(markdown: str, name: str) -> str:
        found = re.search(rf"^## {name}: .*?(?=^## |\Z)", markdown, re.MULTILINE | re.DOTALL)
        assert found is not None
        return found[0]

    @staticmethod
    def cells(section: str) -> list[dict[str, str]]:
        """The rows of all tables, by their headings without arrows."""
        rows: list[dict[str, str]] = []
        for table in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE):
            head, _, *lines = (
                [cell.strip() for cell in line.strip("|\n").split(" | ")]
                for line in table.replace("\\", "").splitlines()
            )
            heads = [re.sub(r" [↑↓]$", "", one) for one in head]
            rows += [dict(zip(heads, line, strict=True)) for line in lines]
        return rows

    @staticmethod
    def agree(cells: dict[str, str], row: dict[str, Any], expected: dict[str, Any]) -> bool:
        """Whether a row of the page has the labels, the count and the figures of a result's row."""
        labels = [label_text(label) for name, label in row["labels"].items() if name != "part"]
        if cells.get("n") != str(row["count"]) or not set(labels) <= set(cells.values()):
            return False
        if not expected.keys() <= cells.keys():
            return False
        for heading, (value, shown) in expected.items():
            text = cells[heading].split(" ")[0]
            if value is None or math.isnan(value):
                if text != "—":
                    return False
            elif abs(float(text) - value * shown.factor) > 0.501 * 10**-shown.decimals:
                return False
        return True

    def test_other_tables_are_taken_as_they_are_and_named_if_of_other_weights(
        self, preset: Path, output: Path, vlv: Callable[..., Any]
    ) -> None:
        """With `--tables`; the one that is named was measured already."""
        command = ["reproduce", "--preset", preset, "--output", output, "--tables"]
        queries = output / "results" / "queries.json"
        data = json.loads(queries.read_text(encoding="utf-8"))
        data["provenance"][MEASURED]["weights"]["model"] = "0123456789abcdef"
        queries.write_text(json.dumps(data), encoding="utf-8")
        before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
        ran = vlv(*command, "vqa, mini")
        assert ran.code == 0, ran.err
        assert {path: path.read_bytes() for path in before} == before
        page, markdown = check_pages(output)
        assert "not of the same model: queries (0123456789ab).**" in markdown
        assert "not of the same model: queries (0123456789ab)." in page

        queries.unlink()
        assert vlv(*command, "vqa").code == 0
        _, markdown = check_pages(output)
        assert "not of the same model" not in markdown and "\n## queries" not in markdown
        assert "\n## mini" in markdown

        for wrong, said in (
            (["vqua"], "the preset three has no table 'vqua'; its tables are mini, vqa, queries"),
            (["vqa", "--render-only"], "--render-only measures no table"),
        ):
            ran = vlv(*command, *wrong)
            assert (ran.code, said in ran.err) == (2, True), ran.err
        ran = vlv("reproduce", "--preset", "mini", "--tables", "vqa")
        assert (ran.code, "--tables works for reports only" in ran.err) == (2, True)

    def test_what_is_missing_or_damaged_is_one_sentence(
        self, preset: Path, output: Path, vlv: Callable[..., Any]
    ) -> None:
        command = ["reproduce", "--preset", preset, "--output", output, "--render-only"]
        result = output / "results" / "vqa.json"
        text = result.read_text(encoding="utf-8")
        data = json.loads(text)
        del data["provenance"][MEASURED]["date"]
        for damaged, said in (
            (text[:-100], "is not JSON"),
            ('{"name": "vqa"}', "does not hold a result of `vlv eval`"),
            (json.dumps(data), "does not say how it was measured"),
        ):
            result.write_text(damaged, encoding="utf-8")
            ran = vlv(*command)
            assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
            assert str(result) in ran.err and said in ran.err
        result.unlink()
        (output / "pictures" / "scenes.json").unlink()
        ran = vlv(*command)
        assert (ran.code, ran.err) == (
            2,
            f"vlv: {output} holds no results/vqa.json, pictures/scenes.json; measure what is "
            "missing with the same command without --render-only\n",
        )
        assert not (output / "report.md").exists()


def test_reports_of_the_mini_were_measured_with_the_package() -> None:
    folder = resolve("vlv-mini")
    package = model_hash(folder)
    for name in (*MINI, "eval_verify", "eval_verify_counts", "ood"):
        data = json.loads((ROOT / "docs" / f"{name}.json").read_text(encoding="utf-8"))
        assert data["provenance"]["model_sha256"] == package, name
        checks = {"checks_sha256": CHECKS, "ood_detector_sha256": ["ood_detector"]}
        for field in checks & data["provenance"].keys():
            assert data["provenance"][field] == folder_hash(folder, checks[field]), name


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_follow_from_what_is_kept_of_their_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the weights before, only what is kept of the runs can be looked at: their names depend on
    a decoder that is no longer there.
    """
    kept = read_result(REPORT / "results" / f"{name}.json")
    if name in OF_WEIGHTS_BEFORE:
        assert kept.provenance["runs"]
        for run, record in kept.provenance["runs"].items():
            (file,) = (REPORT / "measurements").glob(f"{run}-*.json")
            assert json.loads(file.read_text("utf-8"))["run"].items() >= record.items(), run
        return
    monkeypatch.chdir(ROOT)
    # Where a run is missing, this fails at once: there is no place to train it in.
    (tmp_path / "no-folder").write_text("")
    config = TABLES[name].model_copy(update={"folder": tmp_path / "no-folder" / "runs"})
    found = to_json(registry.table(name).evaluate(config))
    assert found["rows"] == to_json(kept)["rows"]
    assert found["claims"] == to_json(kept)["claims"]
