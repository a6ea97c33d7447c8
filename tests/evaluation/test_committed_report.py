"""The committed report of the preset `full`: of the weights in the package, and with ablations that
follow from what is kept of their runs.
"""

import json
from pathlib import Path

import pytest

from vlv.checkpoints.hub import resolve
from vlv.evaluation import registry
from vlv.evaluation.ablations.shared import AblationConfig
from vlv.evaluation.reproduction import MEASURED, preset_folder, read_preset
from vlv.evaluation.results import CHECKS, folder_hash, model_hash, read_result, to_json
from vlv.world.inspector import DEFAULT_FOLDER

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "docs" / "reproduction"
FULL = preset_folder("full")
assert FULL is not None
TABLES = read_preset(FULL)
MINI = ("eval_mini", "eval_mini_unseen_pairs", "eval_mini_unseen_counts")
ABLATIONS = [name for name, config in TABLES.items() if isinstance(config, AblationConfig)]


def test_every_table_was_measured_with_the_package() -> None:
    results = {path.stem: read_result(path) for path in (REPORT / "results").iterdir()}
    assert set(results) == set(TABLES)
    package = {"model": model_hash(resolve("vlv-mini")), "inspector": folder_hash(DEFAULT_FOLDER)}
    for name, result in results.items():
        measured = result.provenance[MEASURED]
        assert measured["config"] == TABLES[name].model_dump(mode="json"), name
        assert package.items() <= measured["weights"].items(), name
    page = (REPORT / "report.md").read_text(encoding="utf-8")
    assert all(result.title in page for result in results.values())


def test_reports_of_the_mini_were_measured_with_the_package() -> None:
    folder = resolve("vlv-mini")
    package = model_hash(folder)
    for name in (*MINI, "eval_verify", "eval_verify_counts", "ood"):
        data = json.loads((ROOT / "docs" / f"{name}.json").read_text(encoding="utf-8"))
        assert data["provenance"]["model_sha256"] == package, name
        checks = {"checks_sha256": CHECKS, "ood_detector_sha256": ["ood_detector"]}
        for field in checks & data["provenance"].keys():
            assert data["provenance"][field] == folder_hash(folder, checks[field]), name


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_follow_from_what_is_kept_of_their_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    # Where a run is missing, this fails at once: there is no place to train it in.
    (tmp_path / "no-folder").write_text("")
    config = TABLES[name].model_copy(update={"folder": tmp_path / "no-folder" / "runs"})
    found = to_json(registry.table(name).evaluate(config))
    kept = to_json(read_result(REPORT / "results" / f"{name}.json"))
    assert found["rows"] == kept["rows"]
    assert found["claims"] == kept["claims"]
