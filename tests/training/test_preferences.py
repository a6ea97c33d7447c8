"""Preferences between words at tiny size: what is judged, what is learned, what a killed process
leaves behind.
"""

import json
import pickle
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tests.training.conftest import Workshop, change_weights, kill_while_writing, weights
from torch.utils.data import default_collate

from vlv.errors import ConfigError, TrainingError, VLVError
from vlv.models.caption_tokens import caption_ids
from vlv.pipeline import VLV
from vlv.training.config import check_config
from vlv.training.loop import train
from vlv.training.preference_data import FILE, PreferenceDataConfig, make_preferences
from vlv.training.provenance import RECORD
from vlv.training.samples.data_order import key
from vlv.training.samples.preferences import (
    Exchange,
    JudgedCaption,
    PreferenceSamples,
    Preferring,
    read_preferences,
)
from vlv.training.stage import Stage
from vlv.training.stages import preferences as stage
from vlv.training.true_exchanges import true_exchanges, truth_of_exchange
from vlv.verification.scorer import DenoisingScorer, VerifySettings
from vlv.world.render import render
from vlv.world.scene import Scene, SceneObject, sample_scene

FIRST = 500
SCENE = Scene(
    floor="gray",
    light="left",
    objects=(SceneObject("cube", "red", "small", "matte", x=-0.6, z=0.1, rotation=0.3),),
)
CAPTION = "On a gray floor with light from the left, there is a small matte red cube on the left."


@pytest.fixture
def fields(workshop: Workshop, tmp_path: Path) -> dict[str, Any]:
    """What both a run and the file that it learns from need."""
    return {
        "start": str(workshop.root / "s2" / "final"),
        "data": {
            "folder": str(workshop.root / "world"),
            "count": 64,
            "workers": 1,
            "first_seed": FIRST,
        },
        "max_tokens": 24,
        "num_threads": 1,
        "output_dir": str(tmp_path / "run"),
    }


@pytest.fixture
def words(fields: dict[str, Any]) -> dict[str, Any]:
    """Of a file of words. A tiny model has nothing to say of a picture; the mini, at a high
    temperature, errs.
    """
    own = {"start": "vlv-mini", "pairs": 3, "images": 4, "levels": [0.6], "temperature": 1.5}
    return {**fields, **own, "max_tokens": 40, "output_dir": fields["output_dir"] + "-words"}


def made(words: dict[str, Any], **changes: Any) -> Path:
    return make_preferences(check_config(PreferenceDataConfig, {**words, **changes}, "here"))


def learner(fields: dict[str, Any], file: Path, **changes: Any) -> Stage:
    config = {
        **fields,
        "preferences": str(file),
        "max_train_steps": 8,
        "train_batch_size": 4,
        "learning_rate": 1.0e-2,
        "validation_count": 4,
        "report_to": "none",
        "validation_picture": False,
        **changes,
    }
    return stage.build(check_config(stage.PreferencesConfig, config, "here"))


def write(path: Path, captions: list[JudgedCaption]) -> Path:
    path.write_text("".join(json.dumps(asdict(one)) + "\n" for one in captions))
    return path


def words_file(folder: Path, count: int = 12) -> Path:
    """True captions of pairs, and captions whose colour is judged: the other word is better."""
    text = "A small red cube stands on the left, in front of a large blue sphere."
    at = text.index("red")
    better = Exchange(at, at + 3, "blue", 0.0, (0.2,), truth=1)
    judged = [JudgedCaption(10 + n, text, False, (better,)) for n in range(count)]
    return write(folder / "words.jsonl", [JudgedCaption(0, "The floor is gray.", True), *judged])


def test_the_decoder_judges_words_of_the_models_own_captions(words: dict[str, Any]) -> None:
    final = made(words)
    captions = read_preferences(final / FILE)
    assert [one.index for one in captions[:3]] == [0, 1, 2]
    assert all(one.pair and not one.exchanges for one in captions[:3])
    judged = captions[3:]
    assert len(judged) == 4 and not any(one.pair for one in judged)
    assert len({one.index for one in judged}) == 4 and min(one.index for one in judged) >= 3
    record = json.loads((final / "run.json").read_text())
    tried = [(one, exchange) for one in judged for exchange in one.exchanges]
    assert record["validation"]["exchanges"] == len(tried) / 4 > 0
    assert record["validation"]["cpu_seconds"] > 0
    for one, exchange in tried:
        scene = sample_scene(FIRST + one.index, "train")
        assert exchange.truth == truth_of_exchange(scene, one.caption, exchange.of(one.caption))
        assert exchange.log_odds >= -4

    # A gain is what a scorer of the picture finds, on the noise of that picture.
    one, exchange = tried[0]
    model = VLV.from_pretrained(words["start"])
    picture = Image.fromarray(render(sample_scene(FIRST + one.index, "train")))
    noise = VerifySettings(levels=(0.6,), repeats=2, seed=key(0, one.index))
    texts = [one.caption, exchange.of(one.caption)]
    before, after = DenoisingScorer(model, picture, noise).errors(texts)
    assert exchange.gain == pytest.approx(float(1 - after.mean() / before.mean()), rel=1e-3)


def test_pictures_that_were_held_out_stay_so(words: dict[str, Any], tmp_path: Path) -> None:
    """With others held out, the file would number a picture twice."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(9):
        Image.fromarray(render(sample_scene(number, "train"))).save(photos / f"{number}.png")
        (photos / f"{number}.txt").write_text(CAPTION)
    words["data"] = {"set": str(photos), "index_folder": str(tmp_path / "indexes")}
    words |= {"images": 1, "max_tokens": 2, "validation_count": 2}
    final = made(words)
    (final / RECORD).unlink()  # as where it was stopped
    with pytest.raises(ConfigError, match="holds a run with other values of validation_count"):
        made(words, validation_count=3)
    made(words)


def test_the_truth_names_the_words_in_place_of_the_model(words: dict[str, Any]) -> None:
    captions = read_preferences(made(words, alternatives="truth", levels=[]) / FILE)
    tried = [exchange for one in captions for exchange in one.exchanges]
    assert tried and all(exchange.truth and not exchange.gains for exchange in tried)

    rng = np.random.default_rng(0)
    found = {CAPTION[s:e]: word for s, e, word in true_exchanges(SCENE, CAPTION, rng)}
    assert set(found) == {"gray", "left", "small", "matte", "red", "cube"}
    assert found["matte"] == "shiny"
    wrong = CAPTION.replace("red", "blue")
    found = {wrong[s:e]: word for s, e, word in true_exchanges(SCENE, wrong, rng)}
    assert found["blue"] == "red"
    assert truth_of_exchange(SCENE, wrong, CAPTION) > 0 > truth_of_exchange(SCENE, CAPTION, wrong)


@pytest.mark.parametrize("loss", ["dpo", "likelihood"])
def test_the_better_word_becomes_likelier(
    fields: dict[str, Any], tmp_path: Path, loss: str
) -> None:
    file = words_file(tmp_path)
    built = learner(fields, file, preference_loss=loss, pair_share=0.0)
    final = train(built)
    caption = read_preferences(file)[1].caption

    def log_odds(folder: str | Path) -> float:
        model = VLV.from_pretrained(folder)
        seen = model.read(model.encode(Image.fromarray(render(sample_scene(FIRST + 10, "train")))))
        ids, _ = caption_ids(
            model.caption_decoder.tokenizer, [caption, caption.replace("red", "blue")]
        )
        at = int((ids[0] != ids[1]).nonzero()[0])
        expected = model.caption_decoder.log_probabilities(seen, ids[0].tolist())[at]
        return float(expected[ids[1, at]] - expected[ids[0, at]])

    assert log_odds(final) > log_odds(fields["start"]) + 0.1
    before, after = weights(Path(fields["start"])), weights(final)
    moved = {name.split("/")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"caption_decoder"}
    record = json.loads((final / "run.json").read_text())
    assert record["stage"] == "preferences" and record["validation"]["caption_loss"] > 0


def test_a_loss_is_that_of_the_paper(fields: dict[str, Any], tmp_path: Path) -> None:
    """Against the start itself no preference is learned yet, and a pair has its own loss."""
    model = VLV.from_pretrained(fields["start"])
    file = make_file_of_start(model, fields, tmp_path)
    for beta in (0.1, 2.0):
        built = learner(fields, file, beta=beta, pair_share=0.0)
        batch = default_collate([built.samples.item(at, at) for at in range(4)])
        loss, metrics = built.objective(batch)
        assert float(loss) == pytest.approx(np.log(2), rel=1e-4)
        assert metrics["caption_loss"].isnan()  # no pair is in the batch
    built = learner(fields, file, pair_share=0.999)
    batch = default_collate([built.samples.item(at, at) for at in range(4)])
    assert batch["supervised"].tolist() == [1] * 4 and not batch["counts"].any()
    loss, metrics = built.objective(batch)
    z = model.encode([Image.fromarray(one.numpy()) for one in batch["image"]])
    own = model.caption_decoder(model.read(z), batch["caption_ids"], batch["caption_length"])
    assert float(loss) == pytest.approx(float(own), rel=1e-4)
    assert float(metrics["preference_loss"]) == 0


def make_file_of_start(model: Any, fields: dict[str, Any], folder: Path) -> Path:
    """A file in which the log-odds of words are those of the start."""
    captions = read_preferences(words_file(folder))
    rows = captions[:1]
    for one in captions[1:]:
        scene = sample_scene(FIRST + one.index, "train")
        seen = model.read(model.encode(Image.fromarray(render(scene))))
        exchange = one.exchanges[0]
        ids, _ = caption_ids(
            model.caption_decoder.tokenizer, [one.caption, exchange.of(one.caption)]
        )
        at = int((ids[0] != ids[1]).nonzero()[0])
        expected = model.caption_decoder.log_probabilities(seen, ids[0].tolist())[at]
        odds = float(expected[ids[1, at]] - expected[ids[0, at]])
        rows.append(replace(one, exchanges=(replace(exchange, log_odds=odds),)))
    return write(folder / "start.jsonl", rows)


def test_judges_decide_what_is_preferred(fields: dict[str, Any], tmp_path: Path) -> None:
    text = "A red cube stands on the left."
    words = [
        Exchange(2, 5, "blue", -1.0, (0.3, 0.1), truth=-1),
        Exchange(6, 10, "cone", 0.5, (-0.02, -0.02), truth=2),
        Exchange(11, 17, "sits", 0.0, (0.001, 0.001), truth=0),
    ]
    one = JudgedCaption(4, text, False, tuple(words))
    decoder = Preferring("decoder", 0.01, 0).preferences(one)
    assert [(word.word, better) for word, better in decoder] == [("blue", True), ("cone", False)]
    truth = Preferring("truth", 0.01, 0).preferences(one)
    assert [(word.word, better) for word, better in truth] == [("blue", False), ("cone", True)]
    flips = [
        better
        for index in range(200)
        for _, better in Preferring("random", 0.01, 0).preferences(replace(one, index=index))
    ]
    assert len(flips) == 400 and 0.4 < np.mean(flips) < 0.6

    file = write(tmp_path / "one.jsonl", [one])
    samples = learner(fields, file, pair_share=0.0).samples
    assert isinstance(samples, PreferenceSamples) and samples.preferences == 2
    copy = pickle.loads(pickle.dumps(samples))  # as workers get it
    assert all(
        torch.equal(value, copy.item(0, 0)[name]) for name, value in samples.item(0, 0).items()
    )
    item = samples.item(0, 0)
    tokenizer = VLV.from_pretrained(fields["start"]).caption_decoder.tokenizer
    first = [tokenizer.decode([int(item[name][0])]) for name in ("preferred", "rejected")]
    assert " blue".startswith(first[0]) and " red".startswith(first[1])
    assert item["log_odds"].tolist() == [-1.0, -0.5]
    assert item["counts"].tolist() == [1, 1]
    with pytest.raises(TrainingError, match="no preferences by judge: decoder of at least"):
        learner(fields, file, least_gain=0.9)
    beyond = replace(one, exchanges=(replace(words[0], truth=None),))
    with pytest.raises(TrainingError, match="judge: truth needs preferences in the embedded world"):
        learner(fields, write(file, [beyond]), judge="truth")


def test_what_a_batch_has_none_of_is_no_part_of_what_is_logged(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    """There is one pair, so that the loss of pairs' captions is one number, seen or not."""
    settings = {"train_batch_size": 1, "gradient_accumulation_steps": 2, "logging_steps": 1}
    settings |= {"learning_rate": 1e-12, "lr_scheduler": "constant", "max_train_steps": 12}
    train(learner(fields, words_file(tmp_path), pair_share=0.5, **settings))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "grad_norm" in row]
    for name in ("caption_loss", "preferred"):
        logged = [row[name] for row in rows if name in row]
        assert 0 < len(logged) < 12
        assert logged == pytest.approx([logged[0]] * len(logged), rel=1e-3)


def test_a_run_that_was_stopped_goes_on_to_the_same(fields: dict[str, Any], tmp_path: Path) -> None:
    file = words_file(tmp_path)
    half = {"output_dir": str(tmp_path / "half"), "lr_scheduler": "constant"}
    whole = train(learner(fields, file, **{**half, "output_dir": str(tmp_path / "whole")}))
    train(learner(fields, file, **half, max_train_steps=3))
    resumed = train(learner(fields, file, **half))
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    # Other preferences are another run.
    words_file(tmp_path, 13)
    with pytest.raises(VLVError, match="other images than data names now"):
        train(learner(fields, file, **half, max_train_steps=9))


def test_a_file_is_learned_from_by_the_model_that_made_it_alone(
    fields: dict[str, Any],
    words: dict[str, Any],
    workshop: Workshop,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its log-odds are those of that model; the name of its folder says nothing of its weights."""
    start = Path(shutil.copytree(workshop.root / "s2" / "final", tmp_path / "start"))
    fields |= {"start": str(start)}
    made({**words, "start": str(start), "alternatives": "truth", "levels": []})
    final = Path(words["output_dir"]) / "final"
    # What the file says is not in question here.
    words_file(final).replace(final / FILE)
    learner(fields, final / FILE)
    assert "has no record" not in caplog.text
    with pytest.raises(ConfigError, match="was made by another model than vlv-mini"):
        learner({**fields, "start": "vlv-mini"}, final / FILE)
    moved = Path(shutil.copytree(start, tmp_path / "moved"))
    learner({**fields, "start": str(moved)}, final / FILE)
    change_weights(start)
    with pytest.raises(ConfigError, match=f"another model than {start}, or before its weights"):
        learner(fields, final / FILE)
    alone = Path(shutil.copy(final / FILE, tmp_path))
    learner(fields, alone)
    assert f"{alone} has no record beside it of the model that made it" in caplog.text


def test_a_file_that_was_begun_goes_on_by_the_same_model_alone(
    words: dict[str, Any], workshop: Workshop, tmp_path: Path
) -> None:
    start = Path(shutil.copytree(workshop.root / "s2" / "final", tmp_path / "start"))
    words |= {"start": str(start), "alternatives": "truth", "levels": []}
    final = made(words)
    (final / "run.json").unlink()  # as after a kill
    (final / FILE).rename(final / "preferences.unfinished")
    assert made(words) == final
    (final / "run.json").unlink()
    change_weights(start)
    with pytest.raises(ConfigError, match="the start as it was before its weights changed"):
        made(words)


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_file(words: dict[str, Any], tmp_path: Path) -> None:
    words |= {"images": 40, "levels": []}
    clean = made(words)
    killed = {**words, "output_dir": str(tmp_path / "killed")}
    config = tmp_path / "killed.yaml"
    config.write_text(yaml.safe_dump(killed))
    command = ["data", "preferences", "--config", str(config)]
    kill_while_writing(command, tmp_path / "killed" / "final" / "preferences.unfinished")
    assert (made(killed) / FILE).read_bytes() == (clean / FILE).read_bytes()
    logged = (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in logged] == [16, 32, 43]
    with pytest.raises(ConfigError, match="other values of images"):
        made({**killed, "images": 41})


@pytest.mark.parametrize(
    "line",
    [
        b"[1]",
        b"{",
        b'{"index": "x", "caption": "", "pair": true}',
        b'{"index": 1, "caption": "A cube.", "pair": false, "exchanges": '
        b'[{"start": 5, "end": 90, "word": "a", "log_odds": 0, "gains": [0]}]}',
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "preferences.jsonl"
    path.write_bytes(b'{"index": 0, "caption": "A cube.", "pair": true}\n' + line + b"\n")
    with pytest.raises(TrainingError, match=r"line 2 of .*preferences\.jsonl"):
        read_preferences(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": 62}, "64 samples, too few for 62 pairs and 4 images"),
        ({"data": {"set": "photos"}, "alternatives": "truth"}, "needs the embedded world"),
        ({"data": {"set": "photos"}, "levels": []}, "asks the truth alone"),
        ({"levels": [0.0]}, "levels of noise are above 0"),
        ({"image": 2}, "did you mean images"),
    ],
)
def test_what_cannot_be_is_refused(
    words: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(VLVError, match=message):
        made(words, **changes)
