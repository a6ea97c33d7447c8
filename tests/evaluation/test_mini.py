"""`vlv eval mini` from its options to its tables, on a tiny untrained model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlv.data.world_sets import world_samples
from vlv.errors import ConfigError
from vlv.evaluation.bench import held_out_scenes
from vlv.evaluation.report.console import to_json
from vlv.evaluation.results import silent
from vlv.evaluation.sampling import CONTROLS, SOURCES, Embeddings, Painter, conditions
from vlv.evaluation.tables import mini
from vlv.evaluation.tables.mini import MiniOptions, MiniReport, evaluate_mini
from vlv.models.vlv import VLV
from vlv.world.render import render

COUNT = 5
SWEEP = 3


@pytest.fixture(scope="module")
def options(model_dir: Path, stage1_dir: Path, inspector_dir: Path) -> MiniOptions:
    return MiniOptions(
        model=str(model_dir),
        stage1=str(stage1_dir),
        inspector=str(inspector_dir),
        count=COUNT,
        guidance_scales=(2.0, 1.0),
        num_inference_steps=2,
        num_beams=1,
        batch_size=4,
        device="cpu",
    )


@pytest.fixture(scope="module", autouse=True)
def _short_sweep() -> Any:
    patch = pytest.MonkeyPatch()
    patch.setattr(mini, "SWEEP_COUNT", SWEEP)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def report(options: MiniOptions) -> MiniReport:
    return evaluate_mini(options)


@pytest.fixture(scope="module")
def painter_dir(model: VLV, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image model alone: no encoder, no captioner."""
    folder = tmp_path_factory.mktemp("painter") / "model"
    model.save_pretrained(folder, components=["text_tower", "vae", "unet", "scheduler"])
    return folder


def row(report: MiniReport, source: str) -> mini.PictureRow:
    (found,) = [row for row in report.pictures if row.source == source]
    return found


def test_every_condition_and_control_is_measured(report: MiniReport) -> None:
    assert {one.source for one in report.pictures} == {"renders", "vae", *SOURCES, *CONTROLS}
    assert {one.count for one in report.pictures} == {COUNT}
    assert row(report, "embeddings").guidance_scale == 2.0
    assert row(report, "unconditional").guidance_scale == 1.0
    assert row(report, "renders").figures["pixel_error"].value == 0
    assert 0 < row(report, "vae").figures["psnr"].value < 40
    assert [(one.source, one.guidance_scale, one.count) for one in report.guidance] == [
        (source, scale, SWEEP) for source in SOURCES for scale in (1.0, 2.0)
    ]
    assert set(report.captions) == {
        "generated",
        "shuffled-z",
        "mean-z",
        "random-captions",
        "true-captions",
    }
    assert report.captions["true-captions"]["recall"].value == 1
    assert report.captions["random-captions"]["recall"].value < 1
    assert len(report.floors) == 7


def test_provenance_tells_what_was_measured_with_what(
    report: MiniReport, options: MiniOptions
) -> None:
    told = report.provenance
    # Eight conditions on all scenes, four of them at one more scale on the first.
    assert told["pictures_drawn"] == 8 * COUNT + 4 * SWEEP
    assert told["options"]["model"] == options.model
    assert told["environment"]["torch"] == torch.__version__
    assert told["environment"]["num_threads"] == torch.get_num_threads()
    hashes = {told[f"{name}_sha256"] for name in ("model", "stage1", "inspector")}
    assert len(hashes) == 3
    assert all(len(value) == 64 for value in hashes)


def test_the_same_options_give_the_same_figures(report: MiniReport, options: MiniOptions) -> None:
    again = evaluate_mini(options)
    one, two = to_json(report), to_json(again)
    for part in ("pictures", "guidance", "captions", "floors"):
        assert one[part] == two[part]


def test_json_holds_no_nan(report: MiniReport) -> None:
    text = json.dumps(to_json(report), allow_nan=False)
    assert '"met": false' in text


def test_what_a_folder_does_not_hold_is_not_measured(
    options: MiniOptions, painter_dir: Path
) -> None:
    report = evaluate_mini(
        replace(options, model=str(painter_dir), stage1=None, guidance_scales=(2.0,))
    )
    assert [one.source for one in report.pictures] == [
        "renders",
        "vae",
        "true-captions",
        "unconditional",
        "random-captions",
    ]
    assert set(report.captions) == {"random-captions", "true-captions"}
    assert len(report.floors) == 2


def test_a_stage1_without_encoder_is_refused(options: MiniOptions, painter_dir: Path) -> None:
    with pytest.raises(ConfigError, match="no encoder"):
        evaluate_mini(replace(options, stage1=str(painter_dir)))


@pytest.mark.parametrize(
    "wrong", [{"count": 1}, {"guidance_scales": ()}, {"guidance_scales": (2.0, 0.5)}]
)
def test_impossible_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        MiniOptions(**wrong)


def test_an_unknown_scheduler_is_told_before_the_work(
    options: MiniOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mini, "encode", lambda *arguments: pytest.fail("the work has begun"))
    with pytest.raises(ConfigError, match="nonsense"):
        evaluate_mini(replace(options, scheduler="nonsense"))


def test_held_out_scenes_are_the_set_that_world_render_writes() -> None:
    data = held_out_scenes(3, seed=2, split="unseen-counts")
    samples = list(world_samples(3, seed=2, split="unseen-counts"))
    assert data.captions == [sample.caption for sample in samples]
    assert all(len(scene.objects) == 4 for scene in data.scenes)
    for scene, picture in zip(data.scenes, data.renders, strict=True):
        assert np.array_equal(picture, render(scene))


def test_scenes_keep_their_noise_whatever_the_condition_and_batch(model: VLV) -> None:
    def painter(seed: int, batch_size: int) -> Painter:
        return Painter(
            model, seed=seed, num_inference_steps=2, batch_size=batch_size, progress=silent
        )

    c = model.text_tower.unconditional(4, 77).detach()
    pictures = painter(0, 4).draw(c, 1.0, "x")
    assert not np.array_equal(pictures[0], pictures[1])
    fewer = painter(0, 2).draw(c[:3], 1.0, "x").astype(int)
    assert np.abs(fewer - pictures[:3]).max() <= 1
    assert not np.array_equal(painter(1, 4).draw(c, 1.0, "x"), pictures)


def test_conditions_are_what_they_are_called(model: VLV) -> None:
    data = held_out_scenes(3)
    z = torch.randn(3, 8, model.text_tower.width, generator=torch.Generator().manual_seed(0))
    before = z + 1
    found = conditions(model, data, Embeddings(z, before), None)
    c = model.condition(z)
    assert torch.equal(found["embeddings"], c)
    assert torch.equal(found["embeddings-before-stage2"], model.condition(before))
    assert torch.equal(found["shuffled-z"], c[[2, 0, 1]])
    mean = model.condition(z.mean(0, keepdim=True))
    assert all(torch.equal(one, mean[0]) for one in found["mean-z"])
    assert torch.equal(found["true-captions"], model.text_tower.encode_text(data.captions))
    assert torch.equal(found["random-captions"], found["true-captions"][[2, 0, 1]])
    assert torch.equal(found["unconditional"][1], model.text_tower.encode_text([""])[0])
    assert "generated-captions" not in found


class TestCommand:
    @pytest.fixture
    def arguments(
        self,
        options: MiniOptions,
        painter_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> list[object]:
        monkeypatch.chdir(tmp_path)
        return [
            *("eval", "mini", "--model", painter_dir, "--inspector", options.inspector),
            *("--count", 2, "--num_inference_steps", 1, "--guidance_scale", 1.5),
            *("--num-beams", 1, "--device", "cpu"),
        ]

    def test_replaces_an_older_report_and_nothing_else(
        self, vlv: Callable[..., Any], arguments: list[object], tmp_path: Path
    ) -> None:
        place = tmp_path / "notes.json"
        place.write_text('{"mine": 1}')
        refused = vlv(*arguments, "--output", place)
        assert refused.code == 2 and "is no result" in refused.err
        assert place.read_text() == '{"mine": 1}'
        place.unlink()
        assert vlv(*arguments, "--output", place).code == 0
        assert vlv(*arguments, "--output", place).code == 0

    def test_prints_tables_and_keeps_json(
        self, vlv: Callable[..., Any], arguments: list[object], tmp_path: Path
    ) -> None:
        ran = vlv(*arguments, "--output", tmp_path / "new" / "report.json")
        assert ran.code == 0, ran.err
        for words in (
            "Pictures, 2 scenes",
            "control: random captions",
            "F1 by guidance scale",
            "pixel error by guidance scale",
            "Captions",
            "Floors",
            "missed",
        ):
            assert words in ran.out
        data = json.loads((tmp_path / "new" / "report.json").read_text())
        assert data["provenance"]["options"]["guidance_scales"] == [1.5]
        assert {one["guidance_scale"] for one in data["guidance"]} == {1.5}

    def test_json_alone_on_standard_output(
        self, vlv: Callable[..., Any], arguments: list[object]
    ) -> None:
        ran = vlv(*arguments, "--json")
        assert ran.code == 0, ran.err
        assert json.loads(ran.out)["provenance"]["evaluation"] == "mini"
        assert json.loads(Path("vlv-eval-mini.json").read_text()) == json.loads(ran.out)

    def test_wrong_use_is_told_before_the_work(
        self, vlv: Callable[..., Any], arguments: list[object], tmp_path: Path
    ) -> None:
        ran = vlv(*arguments, "--output", tmp_path)
        assert ran.code == 2
        assert str(tmp_path) in ran.err
        ran = vlv(
            "eval", "mini", "--model", arguments[3], "--inspector", tmp_path, "--device", "cpu"
        )
        assert ran.code == 3
        assert "no inspector" in ran.err
