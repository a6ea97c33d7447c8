"""`vlv eval decoders`: a flow transformer against a U-Net, from training to the table."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.evaluation.conftest import build_model
from tests.tiny import TINY_SD3_MODEL, build_vlv, quick_verifier_dir

from vlv.errors import ConfigError
from vlv.evaluation.metrics.flops import sample_flops
from vlv.evaluation.results import Result
from vlv.evaluation.tables import decoders
from vlv.evaluation.tables.decoders import (
    CAPTIONS,
    ERRORS,
    LAST,
    OWN,
    PICTURES,
    TRAINING,
    TRUE,
    DecodersConfig,
    evaluate,
    pooled_at_the_last_position,
)
from vlv.models.model_config import VLVConfig
from vlv.models.tokenizers import (
    train_clip_tokenizer,
    train_florence_tokenizer,
    train_qwen2_tokenizer,
)
from vlv.pipeline import VLV
from vlv.training import reproduce as reproduction
from vlv.training.config import load_config, read_yaml
from vlv.training.registry import stage_config
from vlv.training.samples.world import caption_texts
from vlv.verification.fitting import REFERENCES
from vlv.world.counterfactual import ERRORS as KINDS
from vlv.world.inspector import Inspector, InspectorConfig

__all__ = ["quick_verifier_dir"]

PRESETS = ("decoders/mini", "decoders/mini-unet")


@pytest.fixture(scope="module")
def flow() -> VLV:
    return build_model(3, TINY_SD3_MODEL)


@pytest.fixture(scope="module")
def result(
    flow: VLV, model_dir: Path, inspector_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Result:
    folder = tmp_path_factory.mktemp("decoders") / "flow"
    flow.save_pretrained(folder)
    config = DecodersConfig(
        model=str(folder),
        against=str(model_dir),
        inspector=inspector_dir,
        count=4,
        num_inference_steps=2,
        num_beams=1,
        mixed_precision="no",
        device="cpu",
    )
    return evaluate(config)


def test_both_models_are_measured_alike(result: Result) -> None:
    (flow,) = {str(row.labels["model"]) for row in result.rows if row.labels["predicts"] == "flow"}
    labels = [
        (row.labels["part"], row.labels["predicts"], row.labels.get("drawn from"))
        for row in result.rows
    ]
    assert labels == [
        *((PICTURES, "flow", source) for source in (TRUE, LAST, OWN)),
        # A U-Net of Stable Diffusion reads no pooled vector.
        *((PICTURES, "v_prediction", source) for source in (TRUE, OWN)),
        (CAPTIONS, "flow", None),
        (CAPTIONS, "v_prediction", None),
    ]
    assert {str(row.labels["denoiser"]) for row in result.rows} == {
        "SD3Transformer2DModel",
        "UNet2DConditionModel",
    }
    assert f"{flow} has no verifier" in "".join(result.notes)


def test_claims_are_the_differences_of_the_two(result: Result) -> None:
    f1 = {
        (row.labels["predicts"], row.labels["drawn from"]): row.figures["f1"].value
        for row in result.rows
        if row.labels["part"] == PICTURES
    }
    error = {
        row.labels["predicts"]: row.figures["centre_error"].value
        for row in result.rows
        if row.labels.get("drawn from") == OWN
    }
    got = [claim.difference.value for claim in result.claims]
    assert got[:3] == pytest.approx(
        [
            f1["flow", TRUE] - f1["v_prediction", TRUE],
            f1["flow", OWN] - f1["v_prediction", OWN],
            error["v_prediction"] - error["flow"],
        ],
        nan_ok=True,
    )
    assert got[-1] == pytest.approx(f1["flow", TRUE] - f1["flow", LAST])
    assert len(got) == 6


@torch.no_grad()
def test_a_text_that_enters_as_z_differs_by_its_pooled_vector_alone(flow: VLV) -> None:
    texts = ["a red cube", "the floor is gray and the light comes from the right"]
    library, ours = (
        flow.text_tower.encode_text(texts),
        pooled_at_the_last_position(flow.text_tower, texts),
    )
    assert torch.allclose(library.tokens, ours.tokens, atol=1e-6)
    assert library.pooled is not None and ours.pooled is not None
    assert library.pooled.shape == ours.pooled.shape
    assert not torch.allclose(library.pooled, ours.pooled, atol=1e-3)
    # A text that fills all positions ends at the last one.
    long = ["a red cube and " * 40]
    library, ours = (
        flow.text_tower.encode_text(long),
        pooled_at_the_last_position(flow.text_tower, long),
    )
    assert library.pooled is not None and ours.pooled is not None
    assert torch.allclose(library.pooled, ours.pooled, atol=1e-6)


def test_both_presets_see_the_same_and_share_the_language_model() -> None:
    root = reproduction.configs_folder()
    assert set(PRESETS) <= set(reproduction.presets())
    for name in ("language-model", "text-to-image", "stage1", "stage2"):
        flow, unet = (read_yaml(root / preset / f"{name}.yaml") for preset in PRESETS)
        own = {"output_dir", "model", "decoder", "stage1", "max_train_steps", "timestep_bias"}
        own |= {"weighting_scheme", "logit_mean"}
        shared = [{k: v for k, v in one.items() if k not in own} for one in (flow, unet)]
        assert shared[0] == shared[1], name
    assert flow["language_model"].startswith(
        str(read_yaml(root / PRESETS[0] / "language-model.yaml")["output_dir"])
    )


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["text-to-image", "stage1", "stage2"])
def test_both_presets_take_equal_operations(stage: str) -> None:
    root = reproduction.configs_folder()
    texts = caption_texts(400)
    counts = []
    for preset, sizes in zip(PRESETS, ("decoders/mini", "mini"), strict=True):
        with torch.device("meta"):
            model = build_vlv(
                VLVConfig.from_yaml(root / sizes / "model.yaml"),
                encoder_tokenizer=train_florence_tokenizer(texts),
                text_tokenizer=train_clip_tokenizer(texts),
                language_tokenizer=train_qwen2_tokenizer(texts),
            )
        config, _ = stage_config(stage, root / preset / f"{stage}.yaml")
        record = {"config": config.model_dump(mode="json")}
        flops = sample_flops(stage, record, model, Inspector(InspectorConfig()))
        counts.append(flops * config.max_train_steps * config.train_batch_size)
    assert counts[0] == pytest.approx(counts[1], rel=0.01)


@pytest.fixture
def short_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The presets as they are, but for a dozen steps a stage on few scenes."""
    root = reproduction.configs_folder()
    short: dict[str, Any] = {"max_train_steps": 12, "train_batch_size": 4, "lr_warmup_steps": 2}
    short |= {"validation_count": 8, "validation_steps": 12, "checkpointing_steps": 5}
    for preset in ("mini", *PRESETS):
        to = tmp_path / "configs" / preset
        to.mkdir(parents=True, exist_ok=True)
        (to / "model.yaml").write_text(
            (root / ("mini" if preset.endswith("unet") else preset) / "model.yaml").read_text()
        )
        for name in ("language-model", "text-to-image", "stage1", "stage2"):
            fields = {**read_yaml(root / preset / f"{name}.yaml"), **short}
            fields["data"] = {"count": 32, "workers": 1}
            if preset != "mini":
                (to / f"{name}.yaml").write_text(yaml.safe_dump(fields))
    monkeypatch.setattr(reproduction, "configs_folder", lambda: tmp_path / "configs")
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("short_presets")
def test_from_nothing_to_the_table(
    tmp_path: Path, quick_verifier_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An untrained model writes long captions of them.
    scenes = reproduction.verifier_scenes()[: REFERENCES + 2]
    monkeypatch.setattr(reproduction, "verifier_scenes", lambda: scenes)
    config = DecodersConfig(
        count=3, num_inference_steps=2, num_beams=1, verified=2, device="cpu", num_threads=1
    )
    result = evaluate(config)
    trained = [row for row in result.rows if row.labels["part"] == TRAINING]
    assert [(row.labels["model"], row.labels["stage"]) for row in trained] == [
        (preset, stage) for preset in PRESETS for stage in ("text-to-image", "stage1", "stage2")
    ]
    assert all(row.count == 48 and row.figures["total_pflop"].value > 0 for row in trained)

    # What is done is not done again, and a model of any folder can stand beside it.
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("final/run.json")}
    assert len(files) == 7
    beside = {"against": str(quick_verifier_dir), "count": 2}
    again = evaluate(config.model_copy(update=beside))
    assert {path: path.stat().st_mtime_ns for path in files} == files
    kinds = [row.labels["error"] for row in again.rows if row.labels["part"] == ERRORS]
    assert {"own captions", *KINDS} >= set(kinds) and "own captions" in kinds


def test_a_name_that_is_no_preset_is_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    monkeypatch.setattr(decoders, "reproduce", lambda name: trained.append(name) or Path("made"))
    assert decoders._trained("decoders/mini") == Path("made/mini")
    assert decoders._trained("vlv-mini") == "vlv-mini"
    assert trained == ["decoders/mini"]


def test_a_table_of_sentences_of_one_scene_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match=r"verified: .*give 2 or more scenes"):
        load_config(DecodersConfig, None, ["verified=1"])
