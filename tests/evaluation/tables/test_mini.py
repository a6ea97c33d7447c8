"""`vlv eval mini` from its config to its tables, on a tiny untrained model."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from vlv.data.world_sets import world_samples
from vlv.errors import ConfigError
from vlv.evaluation.bench import held_out_scenes
from vlv.evaluation.report.tables import print_result
from vlv.evaluation.results import Result, Row, read_result, silent, to_json
from vlv.evaluation.sampling import CONTROLS, SOURCES, Embeddings, ImageSampler, conditionings
from vlv.evaluation.tables import mini
from vlv.evaluation.tables.mini import (
    BOTH,
    CAPTIONS,
    GUIDANCE,
    NAMES,
    OBJECTS,
    PICTURES,
    MiniConfig,
    evaluate,
    thresholds,
)
from vlv.pipeline import VLV
from vlv.training.config import check_config
from vlv.world.render import render

ROOT = Path(__file__).resolve().parents[3]
COUNT = 5
SWEEP = 3


@pytest.fixture(scope="module")
def config(model_dir: Path, stage1_dir: Path, inspector_dir: Path) -> MiniConfig:
    return MiniConfig(
        model=str(model_dir),
        stage1=str(stage1_dir),
        inspector=inspector_dir,
        count=COUNT,
        guidance_sweep=(2.0, 1.0),
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
def result(config: MiniConfig) -> Result:
    return evaluate(config)


@pytest.fixture(scope="module")
def text_to_image_dir(model: VLV, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image model only: no encoder, no caption decoder."""
    folder = tmp_path_factory.mktemp("text-to-image") / "model"
    model.save_pretrained(folder, components=["text_tower", "vae", "unet", "scheduler"])
    return folder


def part(result: Result, name: str) -> list[Row]:
    return [row for row in result.rows if row.labels["part"] == name]


def picture(result: Result, source: str) -> Row:
    return result.row(part=PICTURES, **{"drawn from": NAMES[source]})


def test_every_source_and_control_is_measured(result: Result) -> None:
    names = {NAMES[name] for name in ("renders", "vae", *SOURCES, BOTH, *CONTROLS)}
    for table in (PICTURES, OBJECTS):
        assert {row.labels["drawn from"] for row in part(result, table)} == names
        assert {row.count for row in part(result, table)} == {COUNT}
    assert picture(result, "embeddings").labels["guidance"] == 2.0
    assert picture(result, "unconditional").labels["guidance"] == 1.0
    assert picture(result, "renders").figures["pixel_error"].value == 0
    assert 0 < picture(result, "vae").figures["psnr"].value < 40
    sweep = part(result, GUIDANCE)
    assert [(row.labels["drawn from"], row.labels["guidance"], row.count) for row in sweep] == [
        (NAMES[source], scale, SWEEP) for source in SOURCES for scale in (1.0, 2.0)
    ]
    captions = {row.labels["captions"]: row.figures for row in part(result, CAPTIONS)}
    assert list(captions) == [
        "generated from z",
        "control: shuffled z",
        "control: mean z",
        "control: random captions",
        "true captions",
    ]
    assert captions["true captions"]["recall"].value == 1
    assert captions["control: random captions"]["recall"].value < 1
    assert len(result.claims) == 2
    assert len(thresholds(result)) == 7


def test_provenance_records_what_was_measured(result: Result, config: MiniConfig) -> None:
    provenance = result.provenance
    # Eight conditionings on all scenes and two of them together, four at one more scale on the
    # first scenes.
    assert provenance["pictures_drawn"] == 9 * COUNT + 4 * SWEEP
    assert provenance["config"] == config.model_dump(mode="json")
    assert provenance["environment"]["torch"] == torch.__version__
    assert provenance["environment"]["num_threads"] == torch.get_num_threads()
    hashes = {provenance[f"{name}_sha256"] for name in ("model", "stage1", "inspector")}
    assert len(hashes) == 3
    assert all(len(value) == 64 for value in hashes)


def test_the_same_config_gives_the_same_figures(result: Result, config: MiniConfig) -> None:
    one, two = to_json(result), to_json(evaluate(config))
    for name in ("rows", "claims", "notes"):
        assert one[name] == two[name]


def test_json_holds_no_nan(result: Result) -> None:
    json.dumps(to_json(result), allow_nan=False)


def test_what_a_folder_does_not_hold_is_not_measured(
    config: MiniConfig, text_to_image_dir: Path
) -> None:
    changes = {"model": str(text_to_image_dir), "stage1": None, "guidance_sweep": ()}
    result = evaluate(config.model_copy(update=changes))
    sources = ("renders", "vae", "true-captions", "unconditional", "random-captions")
    drawn_from = [row.labels["drawn from"] for row in part(result, PICTURES)]
    assert drawn_from == [NAMES[source] for source in sources]
    assert part(result, GUIDANCE) == []
    assert len(part(result, CAPTIONS)) == 2
    assert result.claims == []
    assert len(thresholds(result)) == 2


def test_a_stage1_without_encoder_is_refused(config: MiniConfig, text_to_image_dir: Path) -> None:
    with pytest.raises(ConfigError, match="no encoder"):
        evaluate(config.model_copy(update={"stage1": str(text_to_image_dir)}))


@pytest.mark.parametrize(
    "wrong", [{"count": 1}, {"guidance_scale": 0.5}, {"guidance_sweep": [2.0, 0.5]}]
)
def test_impossible_fields(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        check_config(MiniConfig, wrong, "of this test")


def test_an_unknown_scheduler_is_reported_before_the_work(
    config: MiniConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VLV, "encode", lambda *arguments: pytest.fail("the work has begun"))
    with pytest.raises(ConfigError, match="nonsense"):
        evaluate(config.model_copy(update={"scheduler": "nonsense"}))


@pytest.mark.parametrize(
    ("name", "missed"),
    [
        ("eval_mini", set()),
        ("eval_mini_unseen_pairs", None),
        ("eval_mini_unseen_counts", None),
    ],
)
def test_committed_results_are_read(name: str, missed: set[str] | None) -> None:
    committed = read_result(ROOT / "docs" / f"{name}.json")
    found = thresholds(committed)
    assert len(found) == 7
    assert [str(one) in committed.notes for one in found] == [True] * 7
    # Unseen pairs and counts have no thresholds of their own.
    assert missed is None or {one.name for one in found if not one.met} == missed


def test_held_out_scenes_are_the_set_that_world_render_writes() -> None:
    data = held_out_scenes(3, seed=2, split="unseen-counts")
    samples = list(world_samples(3, seed=2, split="unseen-counts"))
    assert data.captions == [sample.caption for sample in samples]
    assert all(len(scene.objects) == 4 for scene in data.scenes)
    for scene, image in zip(data.scenes, data.renders, strict=True):
        assert np.array_equal(image, render(scene))


def test_scenes_keep_their_noise_for_any_conditioning_and_batch(model: VLV) -> None:
    def sampler(seed: int, batch_size: int) -> ImageSampler:
        return ImageSampler(
            model, seed=seed, num_inference_steps=2, batch_size=batch_size, progress=silent
        )

    with torch.no_grad():
        c = model.text_tower.unconditional(4, 77)
    images = sampler(0, 4).draw(c, 1.0, "x")
    assert not np.array_equal(images[0], images[1])
    fewer = sampler(0, 2).draw(c[:3], 1.0, "x").astype(int)
    assert np.abs(fewer - images[:3]).max() <= 1
    assert not np.array_equal(sampler(1, 4).draw(c, 1.0, "x"), images)


def test_conditionings_are_what_they_are_called(model: VLV) -> None:
    data = held_out_scenes(3)
    z = torch.randn(3, 8, model.text_tower.width, generator=torch.Generator().manual_seed(0))
    before = z + 1
    made = conditionings(model, data.captions, Embeddings(z, before), None)
    found = {name: one.tokens for name, one in made.items()}
    c = model.condition(z).tokens
    assert torch.equal(found["embeddings"], c)
    assert torch.equal(found["embeddings-before-stage2"], model.condition(before).tokens)
    assert torch.equal(found["shuffled-z"], c[[2, 0, 1]])
    mean = model.condition(z.mean(0, keepdim=True)).tokens
    assert all(torch.equal(one, mean[0]) for one in found["mean-z"])
    assert torch.equal(found["true-captions"], model.text_tower.encode_text(data.captions).tokens)
    assert torch.equal(found["random-captions"], found["true-captions"][[2, 0, 1]])
    assert torch.equal(found["unconditional"][1], model.text_tower.encode_text([""]).tokens[0])
    assert "generated-captions" not in found


class TestCommand:
    @pytest.fixture
    def arguments(
        self,
        config: MiniConfig,
        text_to_image_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> list[object]:
        monkeypatch.chdir(tmp_path)
        fields = {"model": text_to_image_dir, "inspector": config.inspector, "device": "cpu"}
        fields |= {"count": 2, "num_inference_steps": 1, "guidance_scale": 1.5, "num_beams": 1}
        return ["eval", "mini", *(f"{name}={value}" for name, value in fields.items())]

    def test_replaces_an_older_result_and_nothing_else(
        self, vlv: Callable[..., Any], arguments: list[object], tmp_path: Path
    ) -> None:
        arguments.append("guidance_sweep=[]")
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
        output = tmp_path / "new" / "result.json"
        ran = vlv(*arguments, "guidance_sweep=[1.5]", "--output", output)
        assert ran.code == 0, ran.err
        for words in (
            "Pictures and captions of held-out scenes",
            "control: random captions",
            "Guidance scales",
            "F1, any shape",
            "Captions",
            "Threshold missed",
        ):
            assert words in ran.out
        found = read_result(output)
        assert found.provenance["config"]["guidance_sweep"] == [1.5]
        assert {row.labels["guidance"] for row in part(found, GUIDANCE)} == {1.5}

    def test_only_json_on_standard_output(
        self, vlv: Callable[..., Any], arguments: list[object]
    ) -> None:
        ran = vlv(*arguments, "guidance_sweep=[]", "--json")
        assert ran.code == 0, ran.err
        assert json.loads(ran.out)["provenance"]["evaluation"] == "mini"
        assert json.loads(Path("vlv-eval-mini.json").read_text()) == json.loads(ran.out)

    def test_old_flags_set_fields_and_are_reported(
        self, vlv: Callable[..., Any], arguments: list[object], config: MiniConfig
    ) -> None:
        fields = dict(str(one).split("=", 1) for one in arguments[2:])
        fields.pop("guidance_scale")
        flags = [part for name, value in fields.items() for part in (f"--{name}", value)]
        scales = ("--guidance_scale", 1.5, "--guidance-scale", 1)
        ran = vlv("eval", "mini", *flags, *scales, "--split", "unseen-pairs", "--json")
        assert ran.code == 0, ran.err
        assert "flags of `vlv eval mini` are key=value now" in ran.err
        used = json.loads(ran.out)["provenance"]["config"]
        assert (used["guidance_scale"], used["guidance_sweep"]) == (1.5, [1.5, 1.0])
        assert (used["count"], used["split"]) == (2, "unseen-pairs")
        assert used["inspector"] == str(config.inspector)

    def test_wrong_use_is_reported_before_the_work(
        self, vlv: Callable[..., Any], arguments: list[object], tmp_path: Path
    ) -> None:
        ran = vlv(*arguments, "--output", tmp_path)
        assert ran.code == 2
        assert str(tmp_path) in ran.err
        ran = vlv("eval", "mini", arguments[2], f"inspector={tmp_path}", "device=cpu")
        assert ran.code == 3
        assert "no inspector" in ran.err


def test_captions_in_another_language_are_said_to_be_so(result: Result) -> None:
    """The tiny model is untrained, so that its captions are no sentences of the world."""
    generated = result.row(part=CAPTIONS, captions=NAMES["generated"])
    assert generated.figures["readable"].value < 0.5
    assert "vlv eval pairs SET --model" in result.notes[-1]
    console = Console(file=io.StringIO(), width=200)
    print_result(result, console)
    assert isinstance(console.file, io.StringIO)
    assert not re.search(r"\bnan\b", console.file.getvalue())
