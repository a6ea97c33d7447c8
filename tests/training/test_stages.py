"""What each stage reads, trains and leaves alone."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.training.conftest import Workshop, weights

from vlv.models.tokenizers import train_clip_tokenizer
from vlv.pipeline import VLV
from vlv.training.objectives.language_model import LanguageModelObjective
from vlv.training.objectives.vae import fold_normalisation
from vlv.training.registry import build_stage
from vlv.training.samples.inspector_targets import scene_targets
from vlv.training.samples.latents import LatentCache
from vlv.training.samples.world import caption_texts, validation_texts, world_data, world_images
from vlv.world.inspector import to_pixels
from vlv.world.language import SHORT_TOKENS, Verdict, judge, read_caption, short_caption
from vlv.world.scene import SPLITS, sample_scene

# What "encoder" in a list of trainable parts stands for.
ENCODER = {"projection", "transformer", "queries", "phi"}


@pytest.fixture
def captions_forbidden(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever writes a caption fails, under whatever name the function was imported."""

    def refuse(*_: object) -> str:
        raise AssertionError("a caption was asked for")

    for module in [m for name, m in sys.modules.items() if name.startswith("vlv.")]:
        for function in ("short_caption", "long_caption", "held_out_caption"):
            if hasattr(module, function):
                monkeypatch.setattr(module, function, refuse)
    yield


@pytest.mark.usefixtures("captions_forbidden")
def test_stage1_reads_no_caption(workshop: Workshop, tmp_path: Path) -> None:
    final = workshop.run("stage1", output_dir=str(tmp_path / "s1"), validation_steps=1)
    assert (final / "run.json").is_file()


@pytest.mark.usefixtures("captions_forbidden")
@pytest.mark.parametrize("stage", ["text-to-image", "stage2"])
def test_the_trap_for_captions_works(workshop: Workshop, tmp_path: Path, stage: str) -> None:
    with pytest.raises(AssertionError, match="a caption was asked for"):
        workshop.run(stage, output_dir=str(tmp_path / "run"))


def test_stage2_takes_the_encoder_of_another_folder(workshop: Workshop) -> None:
    other = workshop.root / "s2" / "final"
    stage = build_stage("stage2", workshop.config("stage2", encoder=str(other)))
    objective: Any = stage.objective
    wanted = VLV.from_pretrained(other).encoder.state_dict()
    own = VLV.from_pretrained(workshop.root / "s1" / "final").encoder.state_dict()
    taken = objective.encoder.state_dict()
    assert all(torch.equal(taken[name], wanted[name]) for name in wanted)
    assert not torch.equal(taken["queries"], own["queries"])


def test_stage1_moves_the_encoder_and_leaves_the_decoder_alone(workshop: Workshop) -> None:
    before: Any = build_stage("stage1", workshop.config("stage1")).objective
    trained = VLV.from_pretrained(workshop.root / "s1" / "final")
    same = {
        name: torch.equal(value, dict(before.encoder.named_parameters())[name])
        for name, value in trained.encoder.named_parameters()
    }
    # Florence-2 keeps token embeddings and positions that these inputs do not reach.
    still = sorted(name for name, equal in same.items() if equal)
    assert all("embed" in name or "bias" in name for name in still), still
    assert not same["queries"]
    assert not same["phi.0.weight"]
    frozen = weights(workshop.root / "t2i" / "final")
    after = weights(workshop.root / "s1" / "final")
    for name, value in frozen.items():
        assert torch.equal(after[name], value), name


@pytest.mark.parametrize(
    ("trainable", "moved"),
    [
        (["psi"], {"psi"}),
        (["psi", "language_model"], {"psi", "language_model"}),
        (["psi", "encoder"], {"psi", *ENCODER}),
        (["vision", "psi"], {"vision", "psi"}),
        (["queries", "phi"], {"queries", "phi"}),
    ],
)
def test_stage2_trains_the_parts_that_trainable_names(
    workshop: Workshop, tmp_path: Path, trainable: list[str], moved: set[str]
) -> None:
    stage = build_stage(
        "stage2", workshop.config("stage2", output_dir=str(tmp_path), trainable=trainable)
    )
    objective: Any = stage.objective
    parts = {**objective.encoder.parts(), **objective.caption_decoder.parts()}
    before = {name: [p.detach().clone() for p in part] for name, part in parts.items()}
    optimizer = torch.optim.SGD(objective.trainable().values(), lr=1.0)
    batch = torch.utils.data.default_collate([stage.samples.item(i, i) for i in range(4)])
    objective.train()
    loss, metrics = objective(batch)
    loss.backward()
    optimizer.step()
    changed = {
        name
        for name, part in parts.items()
        if any(not torch.equal(a, b) for a, b in zip(part, before[name], strict=True))
    }
    assert changed == moved
    assert ("denoising_loss" in metrics) == bool({"vision", *ENCODER} & moved)


def test_stage2_moves_the_encoder_and_leaves_the_decoder_alone(workshop: Workshop) -> None:
    after = weights(workshop.root / "s2" / "final")
    for name, value in weights(workshop.root / "t2i" / "final").items():
        assert torch.equal(after[name], value), name
    before = weights(workshop.root / "s1" / "final")
    moved = {n for n, value in before.items() if not torch.equal(after[n], value)}
    assert "encoder/vlv_head.safetensors:queries" in moved
    assert {name.partition("/")[0] for name in moved} == {"encoder"}


@pytest.mark.parametrize("name", ["stage2", "language-model"])
def test_captions_are_learned_whole_and_with_their_end(workshop: Workshop, name: str) -> None:
    stage = build_stage(name, workshop.config(name))
    objective: Any = stage.objective
    tokenizer = objective.caption_decoder.tokenizer
    for index in range(len(stage.samples)):
        item = stage.samples.item(index, index)
        *ids, end = item["caption_ids"][: item["caption_length"]].tolist()
        assert end == tokenizer.eos_token_id
        assert end not in ids
        claims = read_caption(tokenizer.decode(ids))
        assert set(judge(claims, sample_scene(index, "train"))) == {Verdict.TRUE}


def test_every_text_counts_the_same_in_validation(workshop: Workshop) -> None:
    """Also those of a last batch that is not full: 65 texts are validated as 64 and 1."""
    stage = build_stage("language-model", workshop.config("language-model", validation_count=65))
    objective = stage.objective.eval()
    assert isinstance(objective, LanguageModelObjective)
    with torch.no_grad():
        alone = [
            float(objective.caption_decoder.text_loss(*objective.caption_decoder.tokenise([text])))
            for text in validation_texts(65)
        ]
        found = objective.validate()["loss/short"]
    assert found == pytest.approx(np.mean(alone), rel=1e-5)
    assert abs(np.mean(alone) - (np.mean(alone[:64]) + alone[64]) / 2) > 2e-4


@pytest.mark.parametrize("split", SPLITS)
def test_short_captions_fit_the_text_tower_by_its_own_tokens(split: str) -> None:
    tokenizer = train_clip_tokenizer(caption_texts(500))
    scenes = [sample_scene(seed, split) for seed in range(200)]
    captions = [short_caption(scene, np.random.default_rng(i)) for i, scene in enumerate(scenes)]
    assert max(len(ids) for ids in tokenizer(captions)["input_ids"]) <= SHORT_TOKENS


def test_what_is_frozen_is_in_eval_mode_and_what_trains_is_not(workshop: Workshop) -> None:
    config = workshop.config("stage2", trainable=["encoder", "psi"])
    objective: Any = build_stage("stage2", config).objective.train()
    florence = objective.encoder.florence
    assert florence.language_model.training and objective.caption_decoder.psi.training
    boxes = (objective.text_tower, objective.decoder, objective.caption_decoder.lm)
    for frozen in (florence.vision_tower, *boxes):
        assert not any(module.training for module in frozen.modules())


def test_a_stage_s_folder_records_what_made_it(workshop: Workshop) -> None:
    record = VLV.from_pretrained(workshop.root / "s1" / "final").provenance
    assert "Apache-2.0" in record["licence"]
    assert record["stages"]["stage1"]["steps"] == 2
    assert record["stages"]["stage1"]["config"]["seed"] == 0
    assert record["stages"]["stage1"]["validation"]["denoising_loss/z"] > 0


def test_stage2_folder_captions_and_reconstructs(workshop: Workshop) -> None:
    model = VLV.from_pretrained(workshop.root / "s2" / "final")
    image = Image.new("RGB", (64, 64), (90, 120, 40))
    assert isinstance(model.caption(image, num_beams=1, max_new_tokens=5)[0], str)
    drawn = model.reconstruct(image, num_inference_steps=2, seeds=[1]).images[0]
    assert drawn.size == (64, 64)


def test_the_latents_that_the_decoder_learns_on_have_deviation_one(workshop: Workshop) -> None:
    stage = build_stage("text-to-image", workshop.config("text-to-image"))
    objective: Any = stage.objective
    images = world_images(world_data(stage.config))
    means = LatentCache(objective.decoder.vae, images, "no").means(32).transpose(0, 1).flatten(1)
    torch.testing.assert_close(means.mean(1), torch.zeros(len(means)), atol=0.05, rtol=0)
    torch.testing.assert_close(means.std(1), torch.ones(len(means)), atol=0.05, rtol=0)


@pytest.mark.parametrize(("bias", "mean"), [(1.0, 1 / 2), (2.0, 2 / 3)])
def test_noise_levels_follow_the_bias(workshop: Workshop, bias: float, mean: float) -> None:
    config = workshop.config("stage1", timestep_bias=bias, noise_draws=3)
    stage = build_stage("stage1", config)
    drawn = torch.stack([stage.samples.item(i, i % 32)["u"] for i in range(300)])
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert abs(drawn.mean().item() - mean) < 0.01
    # The median of a density proportional to u ** (bias - 1).
    assert abs((drawn < 0.5 ** (1 / bias)).float().mean().item() - 0.5) < 0.03


def test_normalised_latents_change_no_reconstruction(workshop: Workshop) -> None:
    stage = build_stage("vae", workshop.config("vae"))
    objective: Any = stage.objective
    vae = objective.vae.eval()
    x = to_pixels(torch.from_numpy(world_images(world_data(stage.config)).images[:16].copy()))
    with torch.no_grad():
        before = vae.encode(x).latent_dist
        decoded = vae.decode(before.mean).sample
        mean, std = before.mean.mean((0, 2, 3)), before.mean.std((0, 2, 3))
        fold_normalisation(vae, mean, std)
        after = vae.encode(x).latent_dist
        torch.testing.assert_close(vae.decode(after.mean).sample, decoded, atol=1e-4, rtol=1e-4)
    shape = (1, -1, 1, 1)
    torch.testing.assert_close(
        after.mean.mean((0, 2, 3)), torch.zeros_like(mean), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(after.std, before.std / std.view(shape), atol=1e-4, rtol=1e-3)


def test_the_inspector_learns_from_every_set_it_is_given(workshop: Workshop) -> None:
    folder = str(workshop.root / "world")
    more = [
        {"folder": folder, "split": "unseen-pairs", "count": 8, "workers": 1},
        {"folder": folder, "split": "unseen-counts", "count": 4, "workers": 1},
    ]
    samples = build_stage("inspector", workshop.config("inspector", more_data=more)).samples
    assert len(samples) == 32 + 8 + 4
    for index, scene in (
        (31, sample_scene(31, "train")),
        (32, sample_scene(0, "unseen-pairs")),
        (40, sample_scene(0, "unseen-counts")),
        (43, sample_scene(3, "unseen-counts")),
    ):
        shown = samples.item(0, index)
        for name, value in scene_targets(scene).items():
            assert torch.equal(shown[name], value), (index, name)
