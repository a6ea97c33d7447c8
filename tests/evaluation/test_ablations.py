"""Ablations on tiny models: real runs in processes of their own, measured and compared."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.training.conftest import TINY_MODEL

from vlv.errors import TrainingError
from vlv.evaluation import data_scale, no_stage1, queries
from vlv.evaluation.metrics import Ratio, SeedBootstrap
from vlv.evaluation.results import to_json
from vlv.evaluation.runs import Run, finish

FIELDS: dict[str, Any] = {
    "data": {"count": 16, "workers": 1},
    "validation_count": 4,
    "train_batch_size": 4,
    "learning_rate": 1.0e-3,
}


@pytest.fixture
def settings(model_dir: Path, inspector_dir: Path, tmp_path: Path) -> dict[str, Any]:
    sizes = tmp_path / "model.yaml"
    sizes.write_text(yaml.safe_dump(TINY_MODEL))
    return {
        "model": str(model_dir),
        "inspector": inspector_dir,
        "count": 4,
        "num_inference_steps": 1,
        "folder": tmp_path / "runs",
        "measurements": tmp_path / "measurements",
        "world": tmp_path / "world",
        "sizes": sizes,
        "stage1": {**FIELDS, "max_train_steps": 1},
        "stage2": FIELDS,
        "language_model": {**FIELDS, "max_train_steps": 1, "tokenizer_captions": 50},
    }


def changed(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_queries_from_runs_to_table(settings: dict[str, Any]) -> None:
    config = queries.Config(**settings, queries=[2, 4], seeds=1)
    result = queries.evaluate(config)
    assert [row.labels for row in result.rows] == [
        {"queries": 2, "seeds": 1},
        {"queries": 4, "seeds": 1},
    ]
    assert {row.count for row in result.rows} == {4}
    assert set(result.rows[0].figures) == {"f1", "centre_error", "size_accuracy", "rotation_error"}
    runs = result.provenance["runs"]
    assert len(runs) == 2
    assert {told["samples_seen"] for told in runs.values()} == {4}

    # What was measured is not done again, not even trained; what was not, is.
    before = changed(config.measurements)
    lost = next(config.measurements.iterdir())
    again = queries.evaluate(config.model_copy(update={"folder": config.folder / "elsewhere"}))
    assert not (config.folder / "elsewhere").joinpath("world").exists()
    assert to_json(again)["rows"] == to_json(result)["rows"]
    assert changed(config.measurements) == before
    lost.unlink()
    assert to_json(queries.evaluate(config))["rows"] == to_json(result)["rows"]
    after = changed(config.measurements)
    assert {name for name in before if after[name] != before[name]} == {lost.name}


def test_arms_without_stage_1_see_the_same_pairs(settings: dict[str, Any]) -> None:
    config = no_stage1.Config(
        **settings, pairs=[4, 16], steps=[1, 1], scratch_steps=[2, 2], seeds=1
    )
    result = no_stage1.evaluate(config)
    assert [(row.labels["encoder"], row.labels["pairs"]) for row in result.rows] == [
        (arm, pairs) for arm in no_stage1.ARMS for pairs in (4, 16)
    ]
    assert len(result.claims) == 4
    assert len(result.notes) == 2
    told = {path.stem: yaml.safe_load(path.read_text()) for path in config.folder.glob("*.yaml")}
    stage2 = [run for name, run in told.items() if name.startswith("stage2")]
    assert len(stage2) == 6
    assert all(run["data"]["one_caption"] and run["denoising_weight"] == 0 for run in stage2)
    assert sorted(run["data"]["count"] for run in stage2) == [4, 4, 4, 16, 16, 16]
    fresh = [run for run in stage2 if run.get("fresh_encoder")]
    assert [run["max_train_steps"] for run in fresh] == [2, 2, 2, 2]
    assert sorted(run.get("captions_from", "c") for run in fresh) == ["c", "c", "z", "z"]
    assert len([name for name in told if name.startswith("stage1") and "model" not in name]) == 1


def test_tables_share_runs(settings: dict[str, Any]) -> None:
    several = queries.Config(**settings, queries=[4, 8], seeds=1)
    scale = data_scale.Config(**settings, steps=[1, 2], seeds=1)
    assert (
        several.stage1_run(0, sizes=TINY_MODEL).name == scale.stage1_run(0, max_train_steps=1).name
    )
    assert scale.stage1_run(0).name != scale.stage1_run(1).name
    assert scale.stage1_run(0).name != scale.stage1_run(0, max_train_steps=2).name


def test_a_run_that_fails_names_its_log_and_costs_no_other(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    sizes = TINY_MODEL
    good = Run("language-model", settings["language_model"], sizes)
    bad = Run("language-model", {**settings["language_model"], "learning_rate": -1}, sizes)
    after = Run("stage2", FIELDS, None, {"stage1": tmp_path, "language_model": bad})
    with pytest.raises(TrainingError, match=r"1 of 3 runs failed.*learning_rate.*log"):
        finish([bad, after, good], settings["folder"], settings["world"])
    assert good.is_done(settings["folder"])
    assert not (settings["folder"] / f"{after.name}.log").exists()


def test_intervals_cover_seeds_as_well_as_scenes() -> None:
    rng = np.random.default_rng(0)
    scenes = Ratio((rng.random(200) < 0.5).astype(float), np.ones(200))
    better = Ratio(np.ones(200), np.ones(200))
    worse = Ratio(np.zeros(200), np.ones(200))
    alone = SeedBootstrap(200, 0).figure([scenes])
    assert 0.05 < alone.high - alone.low < 0.2
    # Three models that agree are known better than one; three that do not, worse.
    agreed = SeedBootstrap(200, 0).figure([scenes, scenes, scenes])
    assert agreed.value == alone.value
    split = SeedBootstrap(200, 0).figure([scenes, better, worse])
    assert split.high - split.low > 0.5
    gap = SeedBootstrap(200, 0).difference([better, better], [worse])
    assert (gap.value, gap.low, gap.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("values", "goal", "needed"),
    [
        ([0.1, 0.2, 0.3], 0.05, 10),
        ([0.1, 0.2, 0.3], 0.3, 1000),
        ([0.1, 0.2, 0.3], 0.15, 10**1.5),
        ([0.1, 0.2, 0.3], 0.4, float("inf")),
        ([0.1, 0.3, 0.2], 0.3, 100),
    ],
)
def test_pairs_needed(values: list[float], goal: float, needed: float) -> None:
    assert no_stage1.pairs_needed([10, 100, 1000], values, goal) == pytest.approx(needed)
