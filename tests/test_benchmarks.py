"""The benchmarks run from their command lines, and the page of their figures holds no others."""

import io
import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import launcher

from vlv.models.precision import computes_bfloat16
from vlv.training.recipes import recipe_config
from vlv.training.samples.preferences import Exchange, JudgedCaption
from vlv.training.stages import stage1, stage2

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
TINY = ["--size", "tiny", "--threads", "1", "--repetitions", "1", "--json"]
RUNS = {
    "caption": ["--new-tokens", "4", "--batches", "3"],
    "reconstruct": ["--steps", "2", "--batches", "2"],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The figures of both benchmarks at tiny size, run as scripts in this process."""
    folder, threads = tmp_path_factory.mktemp("figures"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        for name, options in RUNS.items():
            script = str(BENCHMARKS / f"{name}.py")
            patch.setattr(sys, "argv", [script, *TINY, str(folder / name), *options])
            with redirect_stdout(io.StringIO()) as printed:
                runpy.run_path(script, run_name="__main__")
            assert "| float32 |" in printed.getvalue()
        yield {name: json.loads((folder / name).read_text("utf-8")) for name in RUNS}
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("name", "stages", "batches"),
    [
        ("caption", {"language model: prefill", "language model: layers, a token"}, 2),
        ("reconstruct", {"U-Net: a step", "VAE"}, 1),
    ],
)
def test_both_sides_are_timed_in_every_stage(
    results: dict[str, Any], name: str, stages: set[str], batches: int
) -> None:
    rows = results[name]["rows"]
    for precision in ("float32", "bfloat16"):
        alike = [
            row
            for row in rows
            if row["precision"] == precision and row["batches"] == [batches, batches]
        ]
        assert stages < {row["stage"] for row in alike}
        timed = [row for row in alike if row["stage"] != "the rest"]
        assert all(row["plain_seconds"] > 0 and row["our_seconds"] > 0 for row in timed)
        work = [row for row in alike if "our_share" in row]
        assert stages < {row["stage"] for row in work}
        shares = [row[side] for row in work for side in ("plain_share", "our_share")]
        assert min(shares) > 0
        # Where a CPU does not compute in bfloat16, its matrix product may be slower than the rest.
        if precision == "float32" or computes_bfloat16(torch.device("cpu")):
            assert max(shares) < 2


def test_both_sides_make_the_same_in_float32(results: dict[str, Any]) -> None:
    captions, pictures = results["caption"]["facts"], results["reconstruct"]["facts"]
    assert captions["without beams in float32"] == "the same captions"
    assert captions["4 beams in float32"] == "the same captions"
    assert pictures["pictures in float32"].startswith("the same;")


@pytest.mark.slow
def test_bulk_is_measured_against_the_model_alone(tmp_path: Path) -> None:
    sizes = ["--count", "24", "--memory-count", "2", "--batch-size", "4", "--shard-size", "8"]
    script = [sys.executable, str(BENCHMARKS / "bulk.py"), *sizes, "--threads", "1"]
    ran = subprocess.run(
        [*script, "--json", str(tmp_path / "figures")],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    figures = json.loads((tmp_path / "figures").read_text("utf-8"))
    assert [row["count"] for row in figures["rows"]] == [24, 24, 24, 24, 16]
    alone, again, shell, answered, between = [row["wall"] for row in figures["rows"]]
    assert shell > answered > between > 0 < min(alone, again)
    assert figures["peak_bytes"].keys() == {"2", "20"}
    # A model and its libraries, in a process of its own.
    assert min(figures["peak_bytes"].values()) > 150e6
    assert "| vlv bulk, between its shards |" in ran.stdout


def test_the_page_holds_the_tables_of_the_recorded_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    tables = runpy.run_path(str(BENCHMARKS / "tables.py"))
    for page in tables["PAGES"]:
        assert tables["filled"](page.read_text("utf-8")) == page.read_text("utf-8")


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_recorded_steps_have_the_flops_that_are_counted_now(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    paper_scale = runpy.run_path(str(BENCHMARKS / "paper_scale.py"))
    record = ROOT / "docs" / "benchmarks" / f"paper-scale-smoke-{stage}.json"
    recorded = {row["way"]: row for row in json.loads(record.read_text("utf-8"))["ways"]}
    config = recipe_config(ROOT / "configs" / "paper" / f"{stage}.yaml").model_copy(
        update={"frozen_dtype": None, "gradient_checkpointing": None}
    )
    with torch.device("meta"):
        boxes = paper_scale["smoke_boxes"](config)
    build = {"stage1": stage1, "stage2": stage2}[stage].make_objective
    objective = build(config, boxes).to("meta").train()
    for name in ("plain", "latents from a cache"):
        way = paper_scale["ways"](["latents from a cache"])[name]
        counted = paper_scale["count"](objective, config, 1, way)
        assert counted / 1e12 == pytest.approx(recorded[name]["tflop_per_image"], rel=1e-6)


def test_the_signal_of_preferences_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of words that the truth decides: those of the decoder, and those of which it is sure."""
    exchanges = [("red", 0.1, 1), ("blue", -0.2, -1), ("large", 0.01, -1), ("in", 0.3, 0)]
    words = tuple(Exchange(0, 1, word, 0.0, (gain,), None, true) for word, gain, true in exchanges)
    file = tmp_path / "preferences.jsonl"
    file.write_text(json.dumps(asdict(JudgedCaption(0, "A cube.", False, words))) + "\n")
    monkeypatch.setattr(sys, "argv", ["preference_signal.py", str(file)])
    runpy.run_path(str(BENCHMARKS / "preference_signal.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "1 captions, 3 exchanges that truth decides, 1 of them better" in said
    assert "AUROC 1.000" in said
    assert "least_gain 0: 66.7% alike" in said
    assert "least_gain 0.02: 100.0% alike" in said


@pytest.mark.slow
def test_the_service_is_put_through_all_of_its_benchmark(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """At sizes that give no figures: what is asserted holds at any speed."""
    file = tmp_path / "serve.json"
    script = [sys.executable, "-c", launcher.SCRIPT, str(BENCHMARKS / "serve.py")]
    launcher.run([*script, "--quick", "--threads", "1", "--json", str(file)], check=True)
    parts = json.loads(file.read_text("utf-8"))["parts"]
    assert parts["capacity"]["together"]["rate"] > 0
    assert [row["lost"] + row["broken"] for row in parts["load"]["rows"]] == [0, 0, 0]
    assert parts["load"]["rows"][-1]["refused_share"] > 0
    assert 0 < parts["aborts"]["client_gone"] <= parts["aborts"]["left"]
    assert parts["soak"]["unexpected"] == {}
    assert set(parts["soak"]["sums"].values()) == {True}
    assert [row["lost"] for row in parts["kill"]["rows"]] == [0]
    assert parts["kill"]["restarts"] == 1
    printed = capfd.readouterr().out
    assert all(f"**{name}**" in printed for name in [*parts, "duties"])


@pytest.mark.slow
def test_the_page_of_pictures_has_the_counted_cost() -> None:
    printed = io.StringIO()
    with redirect_stdout(printed), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["picture_cost.py"])
        runpy.run_path(str(BENCHMARKS / "picture_cost.py"), run_name="__main__")
    rows = printed.getvalue().splitlines()
    page = (ROOT / "docs" / "evaluate_images.md").read_text()
    assert len(rows) == 5 and all(row in page for row in rows if not row.startswith("|---"))


@pytest.mark.parametrize(("record", "table"), [("0.5b", 0), ("3b", 1), ("3b_batches", 2)])
def test_the_tables_of_engines_are_those_of_their_records(record: str, table: int) -> None:
    text = (ROOT / "docs" / "benchmarks" / f"engines_{record}.json").read_text("utf-8")
    rows = json.loads(text)["rows"]
    page = (ROOT / "docs" / "engines.md").read_text("utf-8")
    tables = page.split("| engine | captions at once | seconds an image |")[1:]
    shown = [
        [cell.strip(" *") for cell in line.strip("|").split("|")][1:]
        for line in tables[table].split("\n\n")[0].splitlines()[2:]
    ]
    first = rows[0]["seconds"]
    expected = {}
    for one in rows:
        ratio, share = first / one["seconds"], one["limit"] / one["seconds"]
        # Seconds have as many digits as their table shows.
        expected[f"{one['seconds']:.3g}"] = [str(one["rows"]), f"{ratio:.2f}", f"{share:.0%}"]
    found = {f"{float(seconds):.3g}": [many, *rest] for many, seconds, *rest in shown}
    assert found == expected
