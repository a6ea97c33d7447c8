"""Nested queries on tiny models: which runs are compared, and from runs to the table."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import launcher

from vlv.errors import ConfigError
from vlv.evaluation.ablations import nested
from vlv.evaluation.ablations.measurements import Measurement, write_measurement
from vlv.evaluation.ablations.runs import ModelComponents, finish
from vlv.evaluation.metrics.statistics import Ratio
from vlv.evaluation.report.plots import plot
from vlv.evaluation.results import to_json

# Of the tiny model.
QUERIES = [1, 4, 8]


@pytest.fixture
def settings(model_dir: Path, inspector_dir: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(model_dir),
        "inspector": inspector_dir,
        "count": 4,
        "num_inference_steps": 1,
        "folder": tmp_path / "runs",
        "measurements": tmp_path / "measurements",
        "world": tmp_path / "world",
        "queries": QUERIES,
        "workers": 1,
        "seeds": 1,
        "stage2": {
            "data": {"count": 8, "workers": 1},
            "validation_count": 4,
            "train_batch_size": 4,
            "learning_rate": 1.0e-3,
            "max_train_steps": 1,
            "max_tokens": 24,
            "validation_picture": False,
        },
    }


def test_all_variants_start_from_the_model_and_differ_by_what_is_dropped(
    settings: dict[str, Any],
) -> None:
    config = nested.NestedConfig(**{**settings, "seeds": 2}, trained_for=[4])
    points = nested.plan(config)
    assert set(points) == {
        *((variant, number) for variant in (nested.GIVEN, *nested.VARIANTS) for number in QUERIES),
        (nested.ALONE, 4),
    }
    drops = {
        nested.NESTED: ("tail", "powers", None),
        nested.HALF: ("tail", "powers", 0.5),
        nested.RANDOM: ("random", "powers", None),
        nested.WHOLE: (None, None, None),
        nested.ALONE: ("tail", [4], None),
    }
    for (variant, number), group in points.items():
        assert {point.queries for point in group} == {number}
        if variant == nested.GIVEN:
            assert [point.run for point in group] == [None]
            continue
        assert [point.run.config["seed"] for point in group if point.run] == [0, 1]
        for point in group:
            assert point.run is not None
            fields = point.run.config
            names = ("query_drop", "query_drop_lengths", "query_drop_probability")
            assert tuple(map(fields.get, names)) == drops[variant]
            assert fields["max_train_steps"] == 1
            assert "language_model" not in point.run.inputs
            for given in point.run.inputs.values():
                assert isinstance(given, ModelComponents)
                assert str(given.folder) == settings["model"]
    # One run serves all numbers.
    assert len({point.run.name for group in points.values() for point in group if point.run}) == 10


def test_the_table_follows_from_what_was_measured(settings: dict[str, Any]) -> None:
    config = nested.NestedConfig(**settings, trained_for=[4])
    stated = {
        nested.GIVEN: {1: 1, 4: 2, 8: 9},
        nested.NESTED: {1: 5, 4: 6, 8: 8},
        nested.HALF: {1: 4, 4: 5, 8: 9},
        nested.RANDOM: {1: 3, 4: 6, 8: 8},
        nested.WHOLE: {1: 1, 4: 3, 8: 9},
        nested.ALONE: {4: 7},
    }
    for (variant, number), (point,) in nested.plan(config).items():
        ratio = Ratio(np.full(4, stated[variant][number]), np.full(4, 10.0))
        figures = ("f1", "centre_error", "precision", "recall", "object_recall")
        measured = Measurement(dict.fromkeys(figures, ratio), {"steps": 1})
        write_measurement(measured, nested._file(config, point))
    result = nested.evaluate(config)
    assert not config.folder.exists()
    row = result.row(variant=nested.NESTED, queries=4)
    assert row.figures["f1"].value == row.figures["object_recall"].value == 0.6
    verdicts = {claim.statement: claim.verdict for claim in result.claims}
    half = {name: verdicts.pop(name) for name in list(verdicts) if "on half of the" in name}
    assert len(half) == len(verdicts) == 10
    price = "nested training on half of the samples than after as many steps without drop."
    assert half[f"The first 8 embeddings draw better after {price}"] == "unconfirmed"
    assert half[f"The first 4 embeddings draw better after {price}"] == "confirmed"
    assert verdicts == {
        "The first embedding draws better after nested training than in the model itself.": (
            "confirmed"
        ),
        "The first embedding draws better after nested training than after as many steps with "
        "random drop.": "confirmed",
        "The first embedding draws better after nested training than after as many steps without "
        "drop.": "confirmed",
        "The first 4 embeddings draw better after nested training than in the model itself.": (
            "confirmed"
        ),
        "The first 4 embeddings draw better after nested training than after as many steps with "
        "random drop.": "unconfirmed",
        "The first 4 embeddings draw better after nested training than after as many steps "
        "without drop.": "confirmed",
        "The first 4 embeddings draw better after nested training than after as many steps with "
        "only so many.": "contradicted",
        "The first 8 embeddings draw better after nested training than in the model itself.": (
            "contradicted"
        ),
        "The first 8 embeddings draw better after nested training than after as many steps with "
        "random drop.": "unconfirmed",
        "The first 8 embeddings draw better after nested training than after as many steps "
        "without drop.": "contradicted",
    }
    assert set(result.provenance["runs"]) == {
        point.run.name for group in nested.plan(config).values() for point in group if point.run
    }
    drawn = plot(result.rows)
    assert drawn is not None and "against queries" in drawn.alt
    assert nested.NESTED in drawn.svg


def test_from_a_run_to_the_table(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[finish.__module__], "subprocess", launcher)
    settings |= {"queries": [1, 8], "variants": ["nested"]}
    config = nested.NestedConfig(**settings)
    result = nested.evaluate(config)
    assert [row.labels for row in result.rows] == [
        {"variant": variant, "queries": number, "seeds": 1}
        for variant in (nested.GIVEN, nested.NESTED)
        for number in (1, 8)
    ]
    assert {"f1", "centre_error", "precision", "object_recall"} <= set(result.rows[0].figures)
    (record,) = result.provenance["runs"].values()
    assert record["samples_seen"] == 4
    assert {"denoising_loss/first_1", "denoising_loss/first_4"} <= set(record["validation"])
    # What was measured is not done again.
    files = {path: path.stat().st_mtime_ns for path in config.measurements.iterdir()}
    assert to_json(nested.evaluate(config))["rows"] == to_json(result)["rows"]
    assert {path: path.stat().st_mtime_ns for path in config.measurements.iterdir()} == files


def test_a_model_alone_is_measured_without_runs(settings: dict[str, Any]) -> None:
    result = nested.evaluate(nested.NestedConfig(**{**settings, "queries": [4, 8]}, variants=[]))
    assert [row.labels["variant"] for row in result.rows] == [nested.GIVEN, nested.GIVEN]
    assert not result.claims and not result.provenance["runs"]
    assert not (settings["folder"]).exists()
    assert "further" not in " ".join(result.notes)


def test_more_than_the_model_has_cannot_be_measured(settings: dict[str, Any]) -> None:
    config = nested.NestedConfig(**{**settings, "queries": [1, 9]})
    with pytest.raises(ConfigError, match="num_queries must be 1 to 8"):
        nested.evaluate(config)
    assert not config.folder.exists()
