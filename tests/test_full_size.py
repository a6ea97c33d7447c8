"""The paper's model at full size, with random weights: nightly, since it takes minutes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "full_size.py"


@pytest.mark.slow
def test_the_papers_model_runs_inside_24_gib(tmp_path: Path) -> None:
    subprocess.run([sys.executable, BENCHMARK, "--json", tmp_path / "figures.json"], check=True)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["caption"]["tokens"] == 8
    assert figures["reconstruction"]["size"] == [384, 384]
    assert 0.1 < figures["stage1"]["loss"] < 100
    assert figures["stage1"]["queries_moved"]
    assert figures["stage1"]["frozen_moved"] == []
    assert figures["stage1"]["peak_gb"] < 24 * 1.024**3
