"""Ablations on tiny models: real runs in processes of their own, measured and compared."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests import launcher
from tests.tiny import TINY_MODEL

from vlv.errors import TrainingError
from vlv.evaluation.ablations import data_scale, no_stage1, preferences, queries, self_training
from vlv.evaluation.ablations.measurements import Measurement, write_measurement
from vlv.evaluation.ablations.runs import ModelComponents, Run, finish
from vlv.evaluation.ablations.shared import AblationConfig
from vlv.evaluation.metrics.statistics import Ratio, SeedBootstrap
from vlv.evaluation.results import to_json

FIELDS: dict[str, Any] = {
    "data": {"count": 16, "workers": 1},
    "validation_count": 4,
    "train_batch_size": 4,
    "learning_rate": 1.0e-3,
}


@pytest.fixture(autouse=True)
def _runs_start_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In processes of their own still."""
    monkeypatch.setattr(sys.modules[finish.__module__], "subprocess", launcher)


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


def write_known(
    config: AblationConfig, runs: Mapping[tuple[str, int], Sequence[Run]], stated: dict[str, int]
) -> None:
    """Measurements of captions of known quality: so many of ten claims are right, or else four."""
    for (variant, _), group in runs.items():
        ratio = Ratio(np.full(4, stated.get(variant, 4)), np.full(4, 10.0))
        for run in group:
            names = ("precision", "recall", "words", "repeated")
            measured = Measurement(dict.fromkeys(names, ratio), {"steps": 1})
            write_measurement(measured, config.measurement(run, "captions"))


def changed(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.slow
def test_queries_from_runs_to_table(settings: dict[str, Any]) -> None:
    config = queries.QueriesConfig(**settings, queries=[2, 4], seeds=1)
    result = queries.evaluate(config)
    assert [row.labels for row in result.rows] == [
        {"queries": 2, "seeds": 1},
        {"queries": 4, "seeds": 1},
    ]
    assert {row.count for row in result.rows} == {4}
    assert set(result.rows[0].figures) == {"f1", "centre_error", "size_accuracy", "rotation_error"}
    runs = result.provenance["runs"]
    assert len(runs) == 2
    assert {record["samples_seen"] for record in runs.values()} == {4}

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


def test_variants_without_stage_1_see_the_same_pairs_for_longer(settings: dict[str, Any]) -> None:
    config = no_stage1.NoStage1Config(
        **settings, pairs=[4, 8, 16], steps=[1, 2, 3], scratch_steps=[4, 5, 6], seeds=2
    )
    runs = no_stage1.plan(config)
    assert {key: len(group) for key, group in runs.items()} == {
        (variant, pairs): 1 if pairs == 8 else 2
        for variant in no_stage1.VARIANTS
        for pairs in (4, 8, 16)
    }
    for (variant, pairs), group in runs.items():
        for seed, run in enumerate(group):
            assert run.config["data"] == {"count": pairs, "one_caption": True}
            assert run.config["seed"] == seed
            assert run.config["denoising_weight"] == 0
            steps = [4, 8, 16].index(pairs) + (1 if variant == "stage 1" else 4)
            assert run.config["max_train_steps"] == steps
            assert run.config.get("fresh_encoder", False) == (variant != "stage 1")
            assert run.config.get("captions_from", "c") == ("z" if variant == "direct" else "c")
            start = run.inputs["stage1"]
            assert isinstance(start, Run) == (variant == "stage 1")
            if isinstance(start, Run):
                assert start.config["seed"] == seed
    language_models = [run.inputs["language_model"] for group in runs.values() for run in group]
    assert len({model.name for model in language_models if isinstance(model, Run)}) == 1


def test_a_longer_stage_1_is_a_variant(settings: dict[str, Any]) -> None:
    config = no_stage1.NoStage1Config(
        **settings,
        pairs=[4, 8],
        steps=[1, 2],
        scratch_steps=[4, 5],
        seeds=2,
        long_stage1=settings["model"],
        long_pairs=4,
    )
    runs = no_stage1.plan(config)
    assert config.variants == (*no_stage1.VARIANTS, no_stage1.LONG)
    assert (no_stage1.LONG, 8) not in runs
    (run,) = runs[no_stage1.LONG, 4]
    assert run.config["max_train_steps"] == 1
    assert run.config["trainable"] == ["psi", "language_model"]
    assert isinstance(run.inputs["encoder"], ModelComponents)
    assert run.inputs["encoder"].components == ("encoder",)


def test_other_components_of_a_model_make_no_other_run(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(settings["model"], copy)
    before = data_scale.DataScaleConfig(**settings, steps=[1, 2], seeds=1)
    after = before.model_copy(update={"model": str(copy)})
    assert before.stage1_run(0).name == after.stage1_run(0).name
    (copy / "caption_decoder" / "note.txt").write_text("another captioner")
    assert before.stage1_run(0).name == after.stage1_run(0).name
    (copy / "unet" / "note.txt").write_text("another decoder")
    assert before.stage1_run(0).name != after.stage1_run(0).name


def test_what_stage_1_saves_follows_from_what_was_measured(settings: dict[str, Any]) -> None:
    """Captions of known quality: stage 1 is as good with 40 pairs as the others with 4000."""
    config = no_stage1.NoStage1Config(
        **settings, pairs=[40, 400, 4000], steps=[1, 1, 1], scratch_steps=[1, 1, 1], seeds=2
    )
    stated = {
        "stage 1": {40: 5, 400: 8, 4000: 9},
        "scratch": {40: 1, 400: 2, 4000: 5},
        "direct": {40: 2, 400: 5, 4000: 8},
    }
    for (variant, pairs), group in no_stage1.plan(config).items():
        ratio = Ratio(np.full(4, stated[variant][pairs]), np.full(4, 10.0))
        for run in group:
            names = ("precision", "recall", "object_recall", "hallucinated", "flawless")
            measured = Measurement(dict.fromkeys(names, ratio), {"steps": 1})
            write_measurement(measured, config.measurement(run, "captions"))
    result = no_stage1.evaluate(config)
    assert not config.folder.joinpath("world").exists()
    recall = result.row(encoder="direct", pairs=400).figures["recall"]
    assert (recall.value, recall.low, recall.high) == (0.5, 0.5, 0.5)
    assert result.row(encoder="stage 1", pairs=400).labels["seeds"] == 1
    differences = [claim.difference.value for claim in result.claims]
    assert differences == pytest.approx([0.4, 0.6, 0.4, 0.3, 0.3, 0.1])
    assert {claim.verdict for claim in result.claims} == {"confirmed"}
    scratch, direct = result.notes
    assert "with 40 (100.0 times fewer, 95% 100.0 to 100.0, the least that was tried)" in scratch
    assert "with 400 (10.0 times fewer" in direct


def test_all_variants_start_from_the_same_caption_decoder(settings: dict[str, Any]) -> None:
    config = self_training.SelfTrainingAblationConfig(
        **settings, pairs=[4, 8], steps=[1, 2], pairs_only_steps=[5, 6], rounds=2, images=6, seeds=2
    )
    runs = self_training.plan(config)
    for (variant, pairs), group in runs.items():
        for seed, run in enumerate(group):
            assert run.config["seed"] == seed
            before = runs[self_training.BEFORE, pairs][seed]
            if variant in self_training.SELECTORS:
                assert run.stage == "self-training"
                assert run.inputs == {"start": before}
                assert (run.config["choose"], run.config["pairs"]) == (variant, pairs)
                # The pairs are the first of the scenes that are captioned.
                assert run.config["data"]["first_seed"] == before.config["data"]["first_seed"]
            elif variant == self_training.PAIRS_ONLY:
                assert run.inputs == before.inputs
                assert run.config["max_train_steps"] == {4: 5, 8: 6}[pairs]

    # Captions of known quality in, verdicts out.
    stated = {"decoder": 8, "truth": 9, "likelihood": 5}
    write_known(config, runs, stated)
    result = self_training.evaluate(config)
    row = result.row(pairs=4, variant="decoder")
    assert row.figures["recall"].value == 0.8
    assert row.figures["words"].value == 0.8
    assert {claim.verdict for claim in result.claims} == {"confirmed"}
    differences = {claim.statement[-30:]: claim.difference.value for claim in result.claims}
    assert sorted(differences.values()) == pytest.approx([0.3, 0.4, 0.4, 0.4])


@pytest.mark.slow
def test_self_training_from_runs_to_table(settings: dict[str, Any]) -> None:
    stage2 = {**FIELDS, "max_tokens": 24}
    config = self_training.SelfTrainingAblationConfig(
        **{**settings, "stage2": stage2},
        pairs=[4],
        steps=[2],
        pairs_only_steps=[4],
        rounds=1,
        images=4,
        samples=2,
        pool=16,
        seeds=1,
        round_stage2={"max_train_steps": 1},
    )
    result = self_training.evaluate(config)
    assert [row.labels["variant"] for row in result.rows] == list(self_training.VARIANTS)
    assert len(result.provenance["runs"]) == len(self_training.VARIANTS)


def test_judges_of_words_share_them(settings: dict[str, Any]) -> None:
    config = preferences.PreferencesAblationConfig(
        **settings, pairs=[4], steps=[1], pairs_only_steps=[5], word_images=6, images=3, seeds=2
    )
    runs = preferences.plan(config)
    assert [variant for variant, _ in runs] == list(preferences.VARIANTS)
    on_words = [preferences.RANDOM, preferences.DECODER, preferences.TRUE_SCORES]
    for seed in range(2):
        before = runs[preferences.BEFORE, 4][seed]
        group = [runs[variant, 4][seed] for variant in on_words]
        assert [run.config["judge"] for run in group] == ["random", "decoder", "truth"]
        assert len({run.name for run in group}) == 3
        (file,) = {run.inputs["preferences"].name for run in group}  # type: ignore[union-attr]
        by_truth = runs[preferences.TRUE_WORDS, 4][seed].inputs["preferences"]
        assert isinstance(by_truth, Run) and by_truth.name != file
        assert by_truth.config["alternatives"] == "truth"
        for run in [*group, runs[preferences.TRUE_CAPTIONS, 4][seed]]:
            assert before in run.inputs.values()
            assert run.config["max_train_steps"] == config.round_stage2["max_train_steps"]
        for variant, selector in (
            (preferences.PICTURE, "picture"),
            (preferences.TRUE_CREDIT, "truth"),
        ):
            whole = runs[variant, 4][seed]
            assert (whole.stage, whole.config["choose"]) == ("self-training", selector)
            assert whole.config["images"] == 3

    # Captions of known quality in, verdicts out.
    stated = {preferences.DECODER: 8, preferences.TRUE_SCORES: 9}
    write_known(config, runs, stated)
    result = preferences.evaluate(config)
    assert {claim.verdict for claim in result.claims} == {"confirmed"}
    assert [claim.difference.value for claim in result.claims] == pytest.approx([0.4] * 8)
    some = config.model_copy(update={"variants": [preferences.BEFORE]})
    assert [row.labels["variant"] for row in preferences.evaluate(some).rows] == ["before"]
    with pytest.raises(ValueError, match="there is no variant 'words'"):
        preferences.PreferencesAblationConfig(**settings, variants=["words"])


@pytest.mark.slow
def test_preferences_from_runs_to_table(settings: dict[str, Any]) -> None:
    stage2 = {**FIELDS, "max_tokens": 24}
    config = preferences.PreferencesAblationConfig(
        **{**settings, "stage2": stage2},
        pairs=[4],
        steps=[2],
        pairs_only_steps=[4],
        images=4,
        word_images=8,
        samples=2,
        pool=32,
        seeds=1,
        round_stage2={"max_train_steps": 1},
        preference_data={"levels": [0.6], "max_tokens": 24},
        preferences={"least_gain": 0.0, "max_tokens": 24},
    )
    on_captions = [
        *(preferences.BEFORE, preferences.PICTURE, preferences.TRUE_CREDIT),
        preferences.TRUE_CAPTIONS,
    ]
    result = preferences.evaluate(config.model_copy(update={"variants": on_captions}))
    assert [row.labels["variant"] for row in result.rows] == on_captions
    assert len(result.provenance["runs"]) == len(on_captions)

    # A captioner of two steps says the same of all pictures: there is no word to judge.
    some = config.model_copy(update={"variants": [preferences.DECODER]})
    with pytest.raises(TrainingError, match="no preferences by judge: decoder"):
        preferences.evaluate(some)
    ((run,),) = preferences.plan(some).values()
    file = run.inputs["preferences"]
    assert isinstance(file, Run) and file.is_done(config.folder)


@pytest.mark.slow
def test_pictures_drawn_otherwise_are_measured_anew(settings: dict[str, Any]) -> None:
    config = queries.QueriesConfig(**settings, queries=[2, 4], seeds=1, workers=1)
    queries.evaluate(config)
    before = changed(config.measurements)
    queries.evaluate(config.model_copy(update={"scheduler": "ddim", "num_inference_steps": 2}))
    after = changed(config.measurements)
    assert len(after) == 2 * len(before)
    assert after.items() > before.items()


def test_tables_share_runs(settings: dict[str, Any]) -> None:
    several = queries.QueriesConfig(**settings, queries=[4, 8], seeds=1)
    scale = data_scale.DataScaleConfig(**settings, steps=[1, 2], seeds=1)
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
    after = Run(
        "stage2", FIELDS, None, {"stage1": ModelComponents(tmp_path, (".",)), "language_model": bad}
    )
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
