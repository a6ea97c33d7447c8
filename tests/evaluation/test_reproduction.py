"""`vlv reproduce`: a report that is measured once, goes on, loses no table, and can be read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.report.reading import check_pages

from vlv.errors import ConfigError
from vlv.evaluation.registry import TABLES
from vlv.evaluation.reproduction import preset_folder, presets, read_preset
from vlv.evaluation.results import read_result


class TestEndToEnd:
    @pytest.fixture
    def preset(self, model_dir: Path, inspector_dir: Path, tmp_path: Path) -> Path:
        """mini and vqa on tiny models, and arena on a model that is not there."""
        folder = tmp_path / "tiny"
        folder.mkdir()
        for name, model in (("mini", model_dir), ("vqa", model_dir), ("arena", tmp_path / "no")):
            self.write(folder, name, model, inspector_dir)
        return folder

    @staticmethod
    def write(folder: Path, name: str, model: Path, inspector: Path, count: int = 4) -> None:
        (folder / f"{name}.yaml").write_text(
            f"model: {model}\ninspector: {inspector}\ncount: {count}\nnum_inference_steps: 1\n"
            "num_beams: 1\ndevice: cpu\n" + ("guidance_sweep: []\n" if name == "mini" else "")
        )

    @pytest.mark.slow
    def test_a_report_goes_on_where_it_was_cut_off(
        self,
        preset: Path,
        model_dir: Path,
        inspector_dir: Path,
        tmp_path: Path,
        vlv: Callable[..., Any],
    ) -> None:
        output = tmp_path / "report"
        command = ["reproduce", "--preset", preset, "--output", output]

        def changed() -> dict[str, int]:
            files = [*output.glob("results/*.json"), *output.glob("pictures/*.png")]
            return {path.stem: path.stat().st_mtime_ns for path in files}

        ran = vlv(*command)
        assert ran.code == 1
        assert "vlv: arena could not be measured: CheckpointError" in ran.err
        first = changed()
        assert first.keys() == {"mini", "vqa", "scenes"}
        page, _ = check_pages(output)
        assert "Could not be measured: arena" in page
        assert f"{tmp_path / 'no'}" in page
        assert page.count("What the model sees and says") == 1

        self.write(preset, "arena", model_dir, inspector_dir)
        (output / "results" / "mini.json").unlink()
        ran = vlv(*command)
        assert ran.code == 0, ran.err
        second = changed()
        assert second.keys() == {"mini", "vqa", "arena", "scenes"}
        assert second["mini"] != first["mini"]
        assert (second["vqa"], second["scenes"]) == (first["vqa"], first["scenes"])
        page, markdown = check_pages(output)
        assert "Could not be measured:" not in page
        order = [markdown.index(f"\n## {name}: ") for name in ("mini", "vqa", "arena")]
        assert order == sorted(order)
        # `vlv eval mini` has a table for each of its parts.
        headings = ("Pictures", "Objects", "Captions")
        assert all(markdown.count(f"\n### {heading}\n") == 1 for heading in headings)
        mini = read_result(output / "results" / "mini.json")
        assert mini.row(part="pictures", **{"drawn from": "control: mean z"}).count == 4
        assert mini.row(captions="true captions").figures["precision"].value == 1
        assert [claim.difference for claim in mini.claims]
        assert len(mini.claims) == 2

        self.write(preset, "vqa", model_dir, inspector_dir, count=3)
        arena, mini_file = (output / "results" / f"{name}.json" for name in ("arena", "mini"))
        for path, key, value in (
            (arena, "weights", {"model": "of other weights"}),
            (mini_file, "code_version", "0.0.1"),  # which alone changes no figure
        ):
            data = json.loads(path.read_text())
            data["provenance"]["reproduction"][key] = value
            path.write_text(json.dumps(data))
        second = changed()
        assert vlv(*command).code == 0
        third = changed()
        assert {name for name in third if third[name] != second[name]} == {"vqa", "arena"}
        assert "Count 3, split test, seed 0" in check_pages(output)[0]

    def test_wrong_presets_are_reported_before_the_work(
        self, preset: Path, vlv: Callable[..., Any], tmp_path: Path
    ) -> None:
        (preset / "vqua.yaml").write_text("count: 4\n")
        ran = vlv("reproduce", "--preset", preset, "--output", tmp_path / "out")
        assert (ran.code, "did you mean vqa?" in ran.err) == (2, True)
        (preset / "vqua.yaml").unlink()
        (preset / "verify.yml").write_text("count: 4\n")
        ran = vlv("reproduce", "--preset", preset, "--output", tmp_path / "out")
        assert ran.code == 2 and "reports have no table verify" in ran.err
        (preset / "verify.yml").unlink()
        (preset / "vqa.yaml").write_text("cuont: 4\n")
        ran = vlv("reproduce", "--preset", preset, "--output", tmp_path / "out")
        assert (ran.code, "did you mean count?" in ran.err) == (2, True)
        assert not (tmp_path / "out").exists()


class TestPresets:
    def test_each_has_all_tables_of_the_shipped_weights_in_order(self) -> None:
        assert presets() == ["full", "quick"]
        for name in presets():
            folder = preset_folder(name)
            assert folder is not None
            found = list(read_preset(folder))
            assert {"fid", "vqa", "arena", "compose", "bottleneck", "cost"} <= set(found)
            assert found == [table for table in TABLES if table in found]

    def test_full_measures_at_least_as_many_scenes_as_the_tables_need(self) -> None:
        folder = preset_folder("full")
        assert folder is not None
        configs = read_preset(folder)
        assert min(config.count for config in configs.values()) >= 500

    def test_folders_of_training_are_no_reports(self, tmp_path: Path) -> None:
        (tmp_path / "stage1.yaml").write_text("output_dir: out\n")
        assert preset_folder(str(tmp_path)) is None
        assert preset_folder("mini") is None
        with pytest.raises(ConfigError, match="no table 'stage1'"):
            read_preset(tmp_path)
