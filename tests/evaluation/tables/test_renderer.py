"""`vlv eval renderer` at a small size, and what it does with records."""

import json
from pathlib import Path

import pytest

from vlv.errors import ConfigError
from vlv.evaluation.results import from_json, to_json
from vlv.evaluation.tables.renderer import ALL, TRAINED, RendererConfig, evaluate
from vlv.training.config import load_config


@pytest.mark.slow
def test_a_run_goes_on_from_its_records_and_gives_the_same_figures(tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    config = RendererConfig(
        count=2, planted=1, styles=(ALL,), records=records, seed=3, num_threads=1
    )
    whole = evaluate(config)
    rows = [row.labels["what"] for row in whole.rows if row.labels["part"] == "styles"]
    assert rows == [TRAINED, ALL]
    assert whole.row(what=TRAINED).figures["judged"].value == 1
    assert whole.row(what=ALL).figures["judged"].value < 1
    assert from_json(to_json(whole)).rows[0].labels == whole.rows[0].labels
    lines = records.read_text("utf-8").splitlines()
    assert len(lines) == 4
    # As a killed run leaves them, in the middle of a line.
    records.write_text("\n".join(lines[:3])[:-20], "utf-8")
    again = evaluate(config)
    assert to_json(again)["rows"] == to_json(whole)["rows"]
    assert records.read_text("utf-8").splitlines() == lines


def test_records_of_another_run_are_refused(tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text(json.dumps({"run": {"seed": 1}, "picture": {}}) + "\n", "utf-8")
    with pytest.raises(ConfigError, match="line 1: this was measured with another model"):
        evaluate(RendererConfig(count=2, records=records))


def test_a_file_of_something_else_stays_as_it_is(tmp_path: Path) -> None:
    records = tmp_path / "notes.txt"
    for text in ("my notes\n", "my notes", '{"picture": 1}\n{"ru', '{"picture": 1}\n{"half'):
        records.write_text(text, "utf-8")
        with pytest.raises(ConfigError, match=r"line 1: no record of this table|does not end as"):
            evaluate(RendererConfig(count=2, records=records))
        assert records.read_text("utf-8") == text
    with pytest.raises(ConfigError, match="is no file of records"):
        evaluate(RendererConfig(count=2, records=tmp_path))


def test_an_unknown_style_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no such style: \['fog'\]; there are the other"):
        load_config(RendererConfig, None, ["styles=[fog]"])
