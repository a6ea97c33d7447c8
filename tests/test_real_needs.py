"""The table of what commands on real images need is what its script counts."""

import json
import runpy
from pathlib import Path

import pytest

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
