"""The weights in the package: small, accounted for, and as good as they were.

The least values here are for few scenes and leave room for chance; `vlv eval mini` measures.
"""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.shared import shared_result

from vlv.checkpoints.hub import WEIGHTS
from vlv.cli.demo import SCENES, SPLIT
from vlv.evaluation.results import Result, model_hash
from vlv.evaluation.tables.mini import CAPTIONS, NAMES, PICTURES, MiniConfig, evaluate
from vlv.pipeline import VLV
from vlv.world.judging import Verdict, judge
from vlv.world.reading import read_caption
from vlv.world.scene import sample_scene

ROOT = Path(__file__).resolve().parents[1]
COUNT = 10


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return shared_result(tmp_path_factory, "weights", measure)


def measure() -> Result:
    return evaluate(MiniConfig(count=COUNT, seed=7, guidance_sweep=(), num_inference_steps=3))


def f1(result: Result, source: str) -> float:
    return result.row(part=PICTURES, **{"drawn from": NAMES[source]}).figures["f1"].value


def test_they_are_small_and_hold_no_pickle() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 60e6
    suffixes = {path.suffix for path in files}
    assert suffixes <= {".safetensors", ".json", ".txt", ".jinja", ".md"}, suffixes


def test_they_say_what_made_them() -> None:
    found = VLV.from_pretrained("vlv-mini").provenance
    assert "Apache-2.0" in found["licence"]
    for stage in ("vae", "text-to-image", "language-model", "stage1", "stage2", "inspector"):
        run = found["stages"][stage]
        assert run["steps"] == run["config"]["max_train_steps"] > 0
        assert run["seconds"] > 0
        assert "seed" in run["config"]


def test_pictures_come_back_out_of_the_embeddings(result: Result) -> None:
    assert f1(result, "renders") > 0.9
    assert f1(result, "vae") > 0.9
    assert f1(result, "true-captions") > 0.6
    assert f1(result, "embeddings") > 0.55
    controls = ("shuffled-z", "mean-z", "unconditional", "random-captions")
    assert f1(result, "embeddings") > max(f1(result, name) for name in controls) + 0.25


def test_captions_tell_the_truth_and_end(result: Result) -> None:
    figures = result.row(part=CAPTIONS, captions=NAMES["generated"]).figures
    assert figures["object_recall"].value > 0.8
    assert figures["precision"].value > 0.8
    assert figures["ended"].value > 0.95


def test_the_demo_names_what_its_scenes_show(vlv: Callable[..., Any], tmp_path: Path) -> None:
    ran = vlv("demo", "--out", tmp_path / "demo.png", "--num-inference-steps", 2)
    assert ran.code == 0
    captions = [line.partition(". ")[2] for line in ran.out.splitlines() if line[:1].isdigit()]
    found = [
        verdict
        for scene, caption in zip(SCENES, captions, strict=True)
        for verdict in judge(read_caption(caption), sample_scene(scene, SPLIT))
    ]
    assert len(found) > 2 * len(SCENES)
    assert found.count(Verdict.TRUE) > 0.75 * len(found)


def test_the_model_card_has_the_figures_of_the_report() -> None:
    card = (WEIGHTS / "mini" / "README.md").read_text("utf-8")
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["license"] == "apache-2.0"
    (result,) = metadata["model-index"][0]["results"]
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    rows = runpy.run_path(str(ROOT / "docs" / "tables.py"))["mini"]
    written = rows("captions", "captions")["generated from z"]["figures"]
    drawn = rows("pictures", "drawn from")["embeddings z"]["figures"]
    assert values["precision"] == round(written["precision"]["value"], 3)
    assert values["recall"] == round(written["recall"]["value"], 3)
    assert values["f1"] == round(drawn["f1"]["value"], 3)


def test_the_figures_of_the_docs_are_of_the_weights_that_are_here() -> None:
    assert runpy.run_path(str(ROOT / "docs" / "figures.py"))["stale"]() == []


def test_a_model_card_does_not_change_the_hash_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "vlv.json").write_text("{}")
    before = model_hash(tmp_path)
    (tmp_path / "README.md").write_text("# A model")
    assert model_hash(tmp_path) == before
