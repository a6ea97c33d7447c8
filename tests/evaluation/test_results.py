"""Results as files: read back by name, whatever the order; damaged ones named."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlv.errors import ConfigError
from vlv.evaluation.ablations.measurements import read_measurement
from vlv.evaluation.metrics.statistics import Figure
from vlv.evaluation.results import Claim, Result, Row, read_result, to_json

RESULT = Result(
    name="cost",
    title="What it takes",
    paper="table 0",
    rows=[Row({"stage": "one", "px": 3}, 5, {"hours": Figure(2.0, 1.0, 4.0)})],
    claims=[Claim("It holds.", "so", "hours", Figure(0.5, -0.1, math.nan))],
    notes=["None."],
    provenance={"seed": 0},
)


def reordered(value: Any) -> Any:
    """The same JSON with every object written from its last key to its first."""
    if isinstance(value, dict):
        return {key: reordered(part) for key, part in reversed(value.items())}
    return [reordered(part) for part in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "order", [reordered, lambda value: json.loads(json.dumps(value, sort_keys=True))]
)
def test_figures_come_back_by_name(tmp_path: Path, order: Callable[[Any], Any]) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(order(to_json(RESULT))))
    read = read_result(path)
    assert read.rows == RESULT.rows
    (claim,) = read.claims
    assert (claim.difference.value, claim.difference.low) == (0.5, -0.1)
    assert math.isnan(claim.difference.high)
    assert to_json(read) == to_json(RESULT)


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda data: [data],
    "a figure without an end": lambda data: data["rows"][0]["figures"]["hours"].pop("low") and data,
    "a figure of words": lambda data: data["rows"][0]["figures"]["hours"].update(low="x") or data,
    "a figure with more": lambda data: data["rows"][0]["figures"]["hours"].update(mid=1) or data,
    "rows that are none": lambda data: {**data, "rows": [3]},
    "no claims": lambda data: {key: part for key, part in data.items() if key != "claims"},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_no_result_is_one_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(DAMAGE[damage](to_json(RESULT))))
    with pytest.raises(ConfigError, match=r"result\.json (does not hold a result|is not a JSON)"):
        read_result(path)


@pytest.mark.parametrize("text", ["", "{", "[" * 9000, '{"ratios": 3, "run": {}}', "{}", "[]"])
def test_a_damaged_measurement_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "measurement.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"measurement\.json"):
        read_measurement(path)
