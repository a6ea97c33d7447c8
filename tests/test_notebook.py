"""The notebook of the documentation runs, and its stored outputs are what its cells print."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


def printed(notebook: dict[str, Any]) -> list[str]:
    """What the cells print, and the values of their last lines, without pictures."""
    outputs = [one for cell in notebook["cells"] for one in cell.get("outputs", [])]
    return ["".join(one.get("text") or one["data"]["text/plain"]) for one in outputs]


@pytest.mark.docs
def test_its_outputs_are_those_of_its_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stored = json.loads((DOCS / "vlv.ipynb").read_text(encoding="utf-8"))
    made = runpy.run_path(str(DOCS / "notebook.py"))["execute"](stored)
    assert printed(made) == printed(stored)
    assert printed(stored)[-2:] == ["True\n", "True"]  # the same captions and the same picture
    assert (stored["nbformat"], stored["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in stored["cells"]}) == len(stored["cells"])
