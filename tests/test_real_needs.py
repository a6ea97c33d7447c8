"""The page on real images holds what its script counts and what its demonstration measured."""

import json
import runpy
from pathlib import Path

import pytest

from vlv.checkpoints.hub import resolve
from vlv.evaluation.real.sentence_marks import OTHER, OWN
from vlv.evaluation.real.sentence_result import OUR_SCORE
from vlv.evaluation.results import CHECKS, folder_hash, model_hash, read_result

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_the_page_holds_the_table_of_the_script() -> None:
    script = runpy.run_path(str(DOCS / "real_needs.py"))
    page = (DOCS / "evaluate_real.md").read_text("utf-8")
    counted = json.loads((DOCS / "real_needs.json").read_text("utf-8"))
    assert script["render"](page, counted) == page
    assert "| `vlv eval boxes3d` |" in page


@pytest.mark.slow
def test_the_figures_are_what_is_counted_now() -> None:
    script = runpy.run_path(str(DOCS / "real_needs.py"))
    assert script["count"]() == json.loads((DOCS / "real_needs.json").read_text("utf-8"))


def test_the_demonstration_of_marks_is_of_the_bundled_model() -> None:
    result = read_result(DOCS / "eval_verify_labels.json")
    folder = resolve("vlv-mini")
    measured = result.provenance["model"]
    assert measured["sha256"] == model_hash(folder)
    assert measured["checks_sha256"] == folder_hash(folder, CHECKS)
    page = (DOCS / "evaluate_real.md").read_text("utf-8")
    auroc = result.row(part="scores", score=OUR_SCORE).figures["auroc_judged"]
    assert f"| {auroc.value:.3f} | {auroc.low:.3f} to {auroc.high:.3f} |" in page
    marks = result.row(part="marks")
    shares = [marks.figures[name] for name in ("detected", "false_alarms", "cannot_judge")]
    for at in (OWN, OTHER):
        row = result.row(**{"part": "verdicts by image", "captions at": at})
        shares.append(row.figures["supported"])
    for one in shares:
        assert f"| {one.value:.1%} | {one.low:.1%} to {one.high:.1%} |" in page
    assert f"of the {marks.count} sentences" in page
