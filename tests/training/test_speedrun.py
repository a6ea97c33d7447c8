"""The speedrun trains as `vlv train` does, counts what it does, and does no run twice."""

import json
import math
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from tests.training.conftest import Workshop

from vlv.training.config import check_config
from vlv.training.loop import train
from vlv.training.stage import Stage
from vlv.training.stages.stage1 import Stage1Config

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import speedrun
        import speedrun_levers
        import speedrun_run
        import speedrun_tables

        return {
            "cli": speedrun,
            "levers": speedrun_levers,
            "run": speedrun_run,
            "tables": speedrun_tables,
        }


@pytest.fixture
def content(workshop: Workshop, tmp_path: Path) -> dict[str, Any]:
    """Two rows at tiny size."""
    return {
        "targets": {"loss": 100.0, "f1": 0.0},
        "target_seeds": [100],
        "scenes": 4,
        "common": {
            "decoder": str(workshop.root / "t2i" / "final"),
            "model": str(workshop.root / "model.yaml"),
            "data": {"folder": str(tmp_path / "world"), "count": 8},
            "validation_count": 4,
            "validation_steps": 1,
            "train_batch_size": 4,
            "learning_rate": 1e-3,
            "max_train_steps": 3,
            "num_threads": 1,
            "report_to": "none",
            "validation_picture": False,
        },
        "rows": {
            "plain": {"title": "the first row"},
            "draws": {
                "after": "plain",
                "title": "more draws",
                "config": {"noise_draws": 2},
                "levers": {
                    "cached_latents": True,
                    "phi_at_text": "captions",
                    "whitened_phi": True,
                    "encoder_image_size": 32,
                    "num_queries": 5,
                },
            },
        },
    }


def made(scripts: dict[str, ModuleType], content: dict[str, Any], row: str, **changes: Any) -> Any:
    """The networks of a row at the start of its run."""
    parts = scripts["cli"].settings(content, row)
    fields = {**parts["config"], **changes}
    config = check_config(Stage1Config, fields, "")
    torch.manual_seed(config.seed)
    return scripts["run"].Trainer(config, scripts["levers"].Levers(**parts["levers"]))


def test_a_step_is_one_of_vlv_train(
    scripts: dict[str, ModuleType], content: dict[str, Any], tmp_path: Path
) -> None:
    own, other = (
        made(scripts, content, "plain", output_dir=str(tmp_path / "run"), use_ema=True)
        for _ in range(2)
    )
    for _ in range(3):
        own.step()
    train(Stage("stage1", other.config, other.objective, other.samples))
    theirs = other.objective.trainable()
    assert theirs.keys() == own.state.parameters.keys()
    for name, mine in own.state.parameters.items():
        assert torch.equal(mine, theirs[name]), name


def test_cached_latents_cost_the_vae_once_a_picture(
    scripts: dict[str, ModuleType], content: dict[str, Any], tmp_path: Path
) -> None:
    run = made(scripts, content, "draws", output_dir=str(tmp_path))
    spent = [run.spent.flops]
    assert spent[0] > 0  # what fits phi to the text is counted too
    for _ in range(3):  # three batches of four, of eight pictures
        run.step()
        spent.append(run.spent.flops)
    first, second, third = (after - before for before, after in pairwise(spent))
    vae = scripts["run"].vae_flops(run.model())
    assert first == second == third + 4 * vae


@pytest.mark.slow
def test_no_run_is_done_twice_and_changed_settings_are_another_run(
    scripts: dict[str, ModuleType], content: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "rows.yaml"

    def lines() -> list[dict[str, Any]]:
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        options = ["--folder", str(tmp_path), "--rows-file", str(file), "--seeds", "1"]
        scripts["cli"].main(["run", *options])
        return [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]

    first = lines()
    assert [(one["row"], one["seed"]) for one in first] == [("plain", 0), ("draws", 0)]
    # A run ends when both targets are met.
    assert [len(one["points"]) for one in first] == [1, 1]
    assert lines() == first
    content["rows"]["draws"]["config"]["noise_draws"] = 3
    again = lines()
    assert [one["row"] for one in again] == ["plain", "draws", "draws"]
    # The run that targets are set from does not end at them, and is no run of the table.
    scripts["cli"].main(["targets", "--folder", str(tmp_path), "--rows-file", str(file)])
    apart = json.loads((tmp_path / "runs.jsonl").read_text().splitlines()[-1])
    assert (apart["seed"], len(apart["points"])) == (100, 3)
    assert ["f1" in point for point in apart["points"]] == [False, False, True]
    result = scripts["cli"].collected(content, tmp_path / "runs.jsonl")
    assert result["target_runs"] == [apart]
    assert [one["settings"] for one in result["runs"]] == [
        again[0]["settings"],
        again[2]["settings"],
    ]


def test_the_table_says_what_a_row_costs_and_what_is_missing(
    scripts: dict[str, ModuleType],
) -> None:
    def run(row: str, seed: int, *points: tuple[float, float, float]) -> dict[str, Any]:
        named = [
            {"step": n, "samples": 8, "flops": f, "cpu_seconds": f / 1e12, "loss": loss, "f1": f1}
            for n, (f, loss, f1) in enumerate(points)
        ]
        return {"row": row, "seed": seed, "points": named}

    rows = {
        "plain": {"title": "one", "after": None, "changes": {}},
        "good": {"title": "two", "after": "plain", "changes": {"noise_draws": 4}},
        "bad": {"title": "three", "after": "plain", "changes": {}},
        "new": {"title": "four", "after": "plain", "changes": {}},
    }
    # A loss that is low enough does not count before F1 is high enough.
    runs = [
        run("plain", seed, (4e12, 0.3, 0.1), ((10 + seed) * 1e12, 0.2, 0.6)) for seed in range(3)
    ]
    runs += [run("good", seed, ((2 + 0.1 * seed) * 1e12, 0.25, 0.7)) for seed in range(3)]
    runs += [run("bad", 0, (9e12, 0.4, 0.1))]
    tables = scripts["tables"]
    course = run("plain", 100, *[(1e12, 0.5 - 0.1 * n, 0.1 * n) for n in range(5)])
    targets = {"loss": 0.3, "f1": 0.5}
    text = tables.markdown(
        {"targets": targets, "target_runs": [course], "rows": rows, "runs": runs}
    )
    plain, good, bad, new = text.splitlines()[2:6]
    assert "11.0 (10.0 to 12.0)" in plain
    figure = tables.ratio([10e12, 11e12, 12e12], [2e12, 2.1e12, 2.2e12])
    assert figure.value == pytest.approx(math.prod((10, 11, 12)) ** (1 / 3) / 2.0984, rel=1e-3)
    assert figure.low < figure.value < figure.high
    assert f"**{figure.value:.2f}** ({figure.low:.2f} to {figure.high:.2f})" in good
    assert "0 of 1" in bad and "not reached in 9.0" in bad and "loss 0.4000" in bad
    assert "not run yet" in new
    said = "seed 100: loss 0.2000 after 3 steps, 0.1000 and F1 0.40 after 4"
    assert f"- set from {said}" in text
    assert "fewer than three seeds, so no claim yet: bad (1), new (0)" in text
