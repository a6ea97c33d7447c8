"""docs/cost.md is what docs/cost.json gives, and docs/cost.json what `vlv cost` counts."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "cost.py"))


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((DOCS / "cost.json").read_text("utf-8"))
    return read


def test_the_page_is_rendered_from_the_figures(
    script: dict[str, Any], found: dict[str, Any]
) -> None:
    assert list(found) == script["commands"]()
    page = (DOCS / "cost.md").read_text("utf-8")
    assert script["render"](page, found) == page


def test_money_is_hours_at_the_price(found: dict[str, Any]) -> None:
    for command, made in found.items():
        assert made["usd"] == pytest.approx(made["gpu_hours"] * made["price"]), command
        seconds = made["gpu_hours"] * 3600 / made["processes"]
        assert made["seconds"]["total"] == pytest.approx(seconds), command


@pytest.mark.slow
@pytest.mark.parametrize("row", range(2))
def test_the_figures_are_what_is_counted_now(
    script: dict[str, Any], found: dict[str, Any], row: int
) -> None:
    """A row of each stage."""
    command = script["commands"]()[row]
    assert script["figures"](command) == found[command]
