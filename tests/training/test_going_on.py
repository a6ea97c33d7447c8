"""Stages that start from finished weights, and stage 2 without one of its two legs."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.training.conftest import Workshop, weights

from vlv.errors import BudgetError, ConfigError, TrainingError
from vlv.pipeline import VLV
from vlv.training.checkpoint import list_checkpoints
from vlv.training.loop import train
from vlv.training.registry import build_stage

ONE_STEP = {"max_train_steps": 1}


def networks(folder: Path) -> dict[str, torch.Tensor]:
    model = VLV.from_pretrained(folder)
    tower, unet = model.text_tower, model.decoder.unet
    return {**tower.state_dict(prefix="tower."), **unet.state_dict(prefix="unet.")}


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_text_to_image_goes_on_from_a_model(workshop: Workshop, tmp_path: Path) -> None:
    start = workshop.root / "t2i" / "final"
    final = workshop.run(
        "text-to-image",
        output_dir=str(tmp_path),
        initial_model=str(start),
        learning_rate=1e-6,
        **ONE_STEP,
    )
    moved = distance(networks(start), networks(final))
    assert 0 < moved < 1e-5
    record = VLV.from_pretrained(final).provenance["stages"]["text-to-image"]
    assert record["before"]["steps"] == 2
    assert record["steps"] == 1


def test_the_text_tower_can_stay_as_it_is(workshop: Workshop, tmp_path: Path) -> None:
    start = workshop.root / "t2i" / "final"
    final = workshop.run(
        "text-to-image",
        output_dir=str(tmp_path),
        initial_model=str(start),
        train_text_tower=False,
        **ONE_STEP,
    )
    before, after = networks(start), networks(final)
    moved = {
        name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])
    }
    assert moved == {"unet"}


def test_a_vae_goes_on_encoder_and_all(workshop: Workshop, tmp_path: Path) -> None:
    start = str(workshop.root / "vae" / "final" / "vae")
    stage = build_stage("vae", workshop.config("vae", output_dir=str(tmp_path), initial_vae=start))
    trainable = stage.objective.trainable()
    assert any(name.startswith("vae.encoder.") for name in trainable)
    saved = build_stage("vae", workshop.config("vae", output_dir=str(tmp_path), decoder_of=start))
    for name, value in saved.objective.state_dict().items():
        assert torch.equal(stage.objective.state_dict()[name], value), name
    both = workshop.config("vae", initial_vae=start, decoder_of=start)
    with pytest.raises(ConfigError, match="initial_vae or decoder_of, not both"):
        build_stage("vae", both)


def test_stage1_takes_the_encoder_of_one_model_and_the_decoder_of_another(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    """And says that the sizes in the config do not count."""
    encoder, decoder = workshop.root / "s2" / "final", workshop.root / "t2i" / "final"
    config = workshop.config("stage1", initial_model=str(encoder), decoder=str(decoder))
    objective: Any = build_stage("stage1", config).objective
    assert f"is not read, since the networks are those of {encoder}" in caplog.text
    learned = VLV.from_pretrained(encoder).encoder.state_dict()
    for name, value in learned.items():
        assert torch.equal(objective.encoder.state_dict()[name], value), name
    unet = VLV.from_pretrained(decoder).decoder.unet.state_dict()
    for name, value in unet.items():
        assert torch.equal(objective.decoder.unet.state_dict()[name], value), name


def test_stage2_goes_on_from_a_caption_decoder(workshop: Workshop, tmp_path: Path) -> None:
    folder = workshop.root / "s2" / "final" / "caption_decoder"
    changes: dict[str, Any] = {"caption_decoder": str(folder), "language_model": None}
    config = workshop.config("stage2", output_dir=str(tmp_path), **changes)
    objective: Any = build_stage("stage2", config).objective
    psi = VLV.from_pretrained(folder.parent).caption_decoder.psi.state_dict()
    for name, value in psi.items():
        assert torch.equal(objective.caption_decoder.psi.state_dict()[name], value), name
    with pytest.raises(ConfigError, match="set either language_model or caption_decoder"):
        build_stage("stage2", workshop.config("stage2", caption_decoder=str(folder)))
    with pytest.raises(ConfigError, match="pair_share needs pseudo_captions"):
        build_stage("stage2", workshop.config("stage2", pair_share=0.5))


def test_without_stage_1_the_encoder_starts_anew(workshop: Workshop, tmp_path: Path) -> None:
    changes = {"output_dir": str(tmp_path), "fresh_encoder": True, "denoising_weight": 0.0}
    stage = build_stage("stage2", workshop.config("stage2", **changes))
    learned = VLV.from_pretrained(workshop.root / "s1" / "final").encoder.queries
    objective: Any = stage.objective
    assert not torch.equal(objective.encoder.queries, learned)
    batch = torch.utils.data.default_collate([stage.samples.item(i, i) for i in range(2)])
    assert "latents" not in batch
    loss, _ = objective(batch)
    loss.backward()
    assert objective.encoder.queries.grad is not None


def test_past_the_text_tower_the_caption_decoder_reads_z(
    workshop: Workshop, tmp_path: Path
) -> None:
    final = workshop.run(
        "stage2",
        output_dir=str(tmp_path),
        captions_from="z",
        denoising_weight=0.0,
        **ONE_STEP,
    )
    model = VLV.from_pretrained(final)
    z = torch.randn(1, 8, 16)
    assert torch.equal(model.read(z), z)
    usual = VLV.from_pretrained(workshop.root / "s2" / "final")
    assert torch.equal(usual.read(z), usual.condition(z).tokens)


def test_a_scene_can_keep_one_caption(workshop: Workshop) -> None:
    data = {"folder": str(workshop.root / "world"), "count": 32, "workers": 1}
    kept = build_stage("stage2", workshop.config("stage2", data={**data, "one_caption": True}))
    ids = [kept.samples.item(position, 3)["caption_ids"] for position in (0, 40, 80)]
    assert torch.equal(ids[0], ids[1]) and torch.equal(ids[0], ids[2])
    assert not torch.equal(kept.samples.item(0, 4)["caption_ids"], ids[0])
    anew = build_stage("stage2", workshop.config("stage2"))
    others = [anew.samples.item(position, 3)["caption_ids"] for position in (0, 40, 80)]
    assert not all(torch.equal(others[0], other) for other in others)


def test_the_best_weights_are_kept(workshop: Workshop, tmp_path: Path) -> None:
    """A learning rate that destroys the model: the first validation is the best there is."""
    changes = {
        "max_train_steps": 3,
        "validation_steps": 1,
        "checkpointing_steps": 1,
        "learning_rate": 5.0,
        "lr_scheduler": "constant",
        "keep_best": "caption_loss",
    }
    final = workshop.run("stage2", output_dir=str(tmp_path), **changes)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = {
        line["step"]: line["validation/caption_loss"]
        for line in lines
        if "validation/caption_loss" in line
    }
    best = min(losses, key=lambda step: losses[step])
    assert best != 3, losses
    run = json.loads((final / "run.json").read_text())
    assert run["best_step"] == best
    assert run["validation"]["caption_loss"] == pytest.approx(losses[best], rel=1e-4)


def test_a_run_ends_when_it_gets_no_better(workshop: Workshop, tmp_path: Path) -> None:
    changes = {
        "max_train_steps": 9,
        "validation_steps": 1,
        "learning_rate": 1e-12,
        "keep_best": "caption_loss",
        "patience": 2,
        "validation_picture": False,
    }
    final = workshop.run("stage2", output_dir=str(tmp_path), **changes)
    run = json.loads((final / "run.json").read_text())
    assert run["steps"] == run["best_step"] + 2 < 9
    assert not (tmp_path / "samples").exists()
    with pytest.raises(ConfigError, match="patience needs keep_best"):
        build_stage("stage2", workshop.config("stage2", patience=2))


def test_patience_goes_on_where_a_run_was_cut_off(workshop: Workshop, tmp_path: Path) -> None:
    """Three validations before the cut, of which the later ones already count."""
    changes = {
        "validation_steps": 1,
        "checkpointing_steps": 1,
        "learning_rate": 1e-12,
        "keep_best": "caption_loss",
        "patience": 4,
        "validation_picture": False,
    }
    workshop.run("stage2", output_dir=str(tmp_path / "cut"), max_train_steps=3, **changes)
    whole = workshop.run("stage2", output_dir=str(tmp_path / "whole"), max_train_steps=9, **changes)
    rest = workshop.run("stage2", output_dir=str(tmp_path / "cut"), max_train_steps=9, **changes)
    runs = [json.loads((final / "run.json").read_text()) for final in (whole, rest)]
    assert runs[0]["steps"] == runs[1]["steps"] < 9
    assert runs[0]["best_step"] == runs[1]["best_step"]


def test_a_run_that_lost_its_patience_does_not_train_on_when_it_is_started_again(
    workshop: Workshop, tmp_path: Path
) -> None:
    changes = {
        "output_dir": str(tmp_path),
        "max_train_steps": 9,
        "validation_steps": 1,
        "learning_rate": 1e-12,
        "lr_scheduler": "constant",
        "keep_best": "caption_loss",
        "patience": 2,
    }
    final = workshop.run("stage2", **changes)
    ended, exported = json.loads((final / "run.json").read_text()), weights(final)
    # The steps are not computed once more.
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"checkpoint-{ended['steps']}"]
    workshop.run("stage2", **changes)
    again = json.loads((final / "run.json").read_text())
    assert (again["steps"], again["best_step"]) == (ended["steps"], ended["best_step"])
    assert all(torch.equal(value, exported[name]) for name, value in weights(final).items())
    workshop.run("stage2", **{**changes, "patience": 3})
    assert json.loads((final / "run.json").read_text())["steps"] > ended["steps"]


def test_a_finished_run_that_is_started_again_exports_only_what_is_missing(
    workshop: Workshop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The mean and the deviation of a VAE's latents can differ in last digits."""

    def run() -> dict[str, int]:
        caplog.clear()
        with caplog.at_level(logging.INFO, "vlv"):
            final = workshop.run("vae", output_dir=str(tmp_path))
        return {p.name: p.stat().st_mtime_ns for p in final.rglob("*") if p.is_file()}

    first, record = run(), tmp_path / "final" / "run.json"
    assert "done already" not in caplog.text
    assert run() == first
    assert f"vae: done already ({record.parent})" in caplog.text
    for damage in (record.unlink, lambda: record.write_text("{")):
        damage()
        assert all(time > first[name] for name, time in run().items())
        assert json.loads(record.read_text())["steps"] == 2


@pytest.mark.parametrize(
    ("stage", "metric", "message"),
    [
        ("stage2", "accuracy", "keep_best names 'accuracy'.*name caption_loss, denoising_loss/z"),
        ("stage1", "denoising_loss/mean_z", "name denoising_loss/z, or leave keep_best out"),
        ("vae", "psnr", "this stage has none, or leave keep_best out"),
    ],
)
def test_keep_best_names_a_metric_whose_least_value_is_the_best_before_the_first_step(
    workshop: Workshop, tmp_path: Path, stage: str, metric: str, message: str
) -> None:
    changes = {"output_dir": str(tmp_path), "checkpointing_steps": 1, "validation_steps": 1}
    with pytest.raises(ConfigError, match=message):
        workshop.run(stage, keep_best=metric, max_train_steps=1, **changes)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_the_best_weights_of_an_earlier_run_in_the_folder_do_not_count(
    workshop: Workshop, tmp_path: Path
) -> None:
    """A run that starts over, and is cut off before its first validation."""
    changes = {"output_dir": str(tmp_path), "keep_best": "caption_loss", "checkpointing_steps": 1}
    workshop.run("stage2", **changes, validation_steps=1, max_train_steps=1)
    other = {"seed": 5, "learning_rate": 5.0, "resume_from_checkpoint": None}
    config = workshop.config(
        "stage2", **changes, **other, max_train_steps=4, max_hours=1e-9, validation_steps=2
    )
    with pytest.raises(BudgetError):
        train(build_stage("stage2", config))
    other["resume_from_checkpoint"] = "latest"
    final = workshop.run("stage2", **changes, **other, max_train_steps=4, validation_steps=2)
    # The weights of the first run are better than any of this one.
    run = json.loads((final / "run.json").read_text())
    assert run["best_step"] in (2, 4)


def test_damaged_best_weights_are_named(workshop: Workshop, tmp_path: Path) -> None:
    changes = {"keep_best": "caption_loss", "validation_steps": 1, "output_dir": str(tmp_path)}
    workshop.run("stage2", **changes, max_train_steps=1)
    best = tmp_path / "checkpoint-1" / "best.safetensors"
    best.write_bytes(best.read_bytes()[:100])
    with pytest.raises(TrainingError, match=r"checkpoint-1/best\.safetensors is damaged"):
        workshop.run("stage2", **changes, max_train_steps=2)
    best.unlink()
    workshop.run("stage2", **changes, max_train_steps=2)


def test_files_of_a_run_are_as_readable_as_any_new_file(workshop: Workshop, tmp_path: Path) -> None:
    changes = {"keep_best": "caption_loss", "validation_steps": 1, "checkpointing_steps": 1}
    before = os.umask(0o022)
    try:
        workshop.run("stage2", **changes, output_dir=str(tmp_path), max_train_steps=1)
    finally:
        os.umask(before)
    written = {path: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.safetensors")}
    assert tmp_path / "best.safetensors" in written
    assert len({path.parent for path in written}) > 2  # those of the checkpoint and the model too
    assert set(written.values()) == {0o644}


def test_few_held_out_scenes_are_drawn_too(workshop: Workshop, tmp_path: Path) -> None:
    changes = {"validation_count": 2, "validation_steps": 1, "max_train_steps": 1}
    changes |= {"validation_picture": True}
    workshop.run("text-to-image", output_dir=str(tmp_path), **changes)
    with Image.open(tmp_path / "samples" / "step-1.png") as picture:
        assert picture.size == (2 * 64, 2 * 64)
