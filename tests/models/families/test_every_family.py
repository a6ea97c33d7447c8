"""What holds for every family of text-to-image models. A family gets these tests by an entry in
`tiny_families.py`.
"""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from tests.models.families.tiny_families import TINY_FAMILIES, pixel_gap
from tests.training.image_folders import sample, write_images
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vlv.cli.app import main
from vlv.errors import ConfigError
from vlv.models.conditioning import concatenated
from vlv.models.config import FamilyName
from vlv.models.encoder import VLVEncoder
from vlv.models.families import FAMILIES, family_of, load_family
from vlv.models.latent_codec import LatentScale
from vlv.models.model_config import VLVConfig
from vlv.models.precision import use_fast_attention
from vlv.models.preprocessing import decoder_pixels
from vlv.models.text_tower import ConditioningEntry
from vlv.models.tokenizers import prompt_ids
from vlv.pipeline import VLV
from vlv.training.compiling import compile_blocks
from vlv.training.config import WorldDataConfig
from vlv.training.cost.work import count_work
from vlv.training.meta_steps import MetaBoxes, boxes_of
from vlv.training.objectives.denoising import denoising_loss
from vlv.training.objectives.encoding import PICTURE_STEPS, PICTURES
from vlv.training.objectives.text_to_image import TextToImageObjective
from vlv.training.samples.set_latents import SetLatents
from vlv.training.stages.stage1 import Stage1Config
from vlv.verification.scorer import DenoisingScorer, VerifySettings
from vlv.world.inspector import to_pixels
from vlv.world.render import render
from vlv.world.scene import sample_scene

TEXTS = ["a small red cube", "the light comes from the right. " * 30, ""]


@pytest.fixture
def z(model: VLV) -> torch.Tensor:
    random = torch.Generator().manual_seed(3)
    return 0.5 * torch.randn(2, 6, model.text_tower.width, generator=random)


def test_z_is_as_wide_as_its_slots_and_phi_has_a_head_for_each(model: VLV, images: list) -> None:
    tower = model.text_tower
    z = model.encode(images)
    assert z.shape == (3, 6, sum(slot.width for slot in tower.slots))
    assert [one.shape[-1] for one in tower.of_slots(z)] == [slot.width for slot in tower.slots]
    heads = len(tower.slots)
    assert sum(name.endswith("2.weight") for name, _ in model.encoder.phi.named_parameters()) == (
        heads
    )


def test_texts_and_embeddings_give_what_the_denoiser_and_the_caption_decoder_read(
    model: VLV, z: torch.Tensor
) -> None:
    tower, decoder = model.text_tower, model.decoder
    noisy = torch.randn(2, *decoder.latent_shape)
    times = decoder.noise_process.timesteps(torch.tensor([0.2, 0.9]))
    for c in (tower(z), tower.encode_text(TEXTS[:2]), tower.unconditional(2, 6)):
        assert c.tokens.shape[-1] == tower.conditioning_width
        assert decoder.predict(noisy, times, c).shape == noisy.shape
        assert model.caption_decoder.psi(c.tokens).shape[:2] == c.tokens.shape[:2]
    assert tower.unconditional(2, 6).tokens.shape == tower(z).tokens.shape


def test_every_token_and_every_pooled_value_matters_to_the_prediction(model: VLV) -> None:
    decoder, tower = model.decoder, model.text_tower
    noisy = torch.randn(1, *decoder.latent_shape)
    times = decoder.noise_process.timesteps(torch.tensor([0.5]))
    z = 0.5 * torch.randn(1, 6, tower.width)
    z.requires_grad_()
    decoder.predict(noisy, times, tower(z)).square().sum().backward()
    assert z.grad is not None
    for slot in tower.of_slots(z.grad):
        assert (slot.abs().amax(-1) > 0).all()


def test_gradients_reach_z_and_no_frozen_bit_moves(model: VLV, z: torch.Tensor) -> None:
    decoder, tower = model.decoder, model.text_tower
    boxes = [*tower.encoders.values(), decoder.vae, decoder.denoiser]
    before = [value.clone() for box in boxes for value in box.state_dict().values()]
    z = z.clone().requires_grad_()
    optimizer = torch.optim.AdamW([z], lr=0.05)
    latents = torch.randn(2, *decoder.latent_shape)
    noise = torch.randn_like(latents)
    times = decoder.noise_process.timesteps(torch.tensor([0.3, 0.8]))
    losses = []
    for _ in range(8):
        loss = decoder.denoising_loss(latents, tower(z), noise, times).mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    after = [value for box in boxes for value in box.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_codec_decodes_what_it_encodes_and_scales_it_as_the_config_says(model: VLV) -> None:
    decoder = model.decoder
    side = decoder.image_size
    pixels = torch.rand(1, 3, side, side) * 2 - 1
    with torch.no_grad():
        latents = decoder.encode_images(pixels)
        assert latents.shape[1:] == decoder.latent_shape
        assert decoder.decode_latents(latents).shape == pixels.shape
        raw = decoder.codec.moments(pixels)[:, 0]
        config = decoder.vae.config
        shift = config.get("shift_factor") or 0.0
        assert torch.allclose(latents, (raw - shift) * config.scaling_factor, atol=1e-6)


def test_noise_grows_with_the_level_and_is_all_at_its_end(model: VLV) -> None:
    process = model.decoder.noise_process
    levels = torch.linspace(0, 0.9999, 9)
    times = process.timesteps(levels)
    assert (times.diff() > 0).all()
    assert (process.snr(times).diff() < 0).all()
    latents, noise = torch.zeros(9, 1, 2, 2), torch.ones(9, 1, 2, 2)
    mixed = process.noisy(latents, noise, times)
    assert (mixed.flatten(1).mean(1).diff() > 0).all()
    latents, noise = torch.randn(2, 9, 1, 2, 2)
    times = process.timesteps(torch.linspace(0, 0.8, 9))
    mixed, target = process.noisy(latents, noise, times), process.target(latents, noise, times)
    assert torch.allclose(process.denoised(mixed, target, times), latents, atol=1e-4)


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++sde"])
def test_a_picture_depends_on_its_own_seed_alone(
    model: VLV, z: torch.Tensor, scheduler: str
) -> None:
    settings = {"num_inference_steps": 3, "scheduler": scheduler}
    together = model.reconstruct(z, seeds=[1, 2], **settings).images
    alone = model.reconstruct(z[1:], seeds=[2], **settings).images
    assert pixel_gap(together[1], alone[0]) <= 1
    drawn = model.draw(["a red cube"], seeds=[2], num_inference_steps=2).images[0]
    assert drawn.size == (model.decoder.image_size,) * 2


def test_captions_beside_z_are_refused_where_a_prompt_is_more_than_tokens(
    model: VLV, z: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = {"captions": ["a", "b"], "seeds": [1, 2], "num_inference_steps": 2}
    if model.decoder.family.name == "stable-diffusion":
        assert len(model.reconstruct(z, **both).images) == 2
        return
    with pytest.raises(ConfigError, match="cannot change their prompt between steps"):
        model.reconstruct(z, **both)
    # Before the image, which is none, is captioned.
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "a.png").write_bytes(b"no image")
    command = ["reconstruct", tmp_path / "a.png", "--via", "both", "--model", tmp_path / "model"]
    with pytest.raises(SystemExit, match="2"):
        main([*map(str, command), "--out", str(tmp_path / "b.png")])
    assert "--via embeddings or --via caption" in capsys.readouterr().err


def test_a_folder_gives_the_same_model_again(model: VLV, images: list, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    opened = VLV.from_pretrained(tmp_path / "model")
    assert torch.equal(opened.encode(images), model.encode(images))
    z = model.encode(images)
    assert torch.equal(opened.condition(z).tokens, model.condition(z).tokens)
    drawing = {"seeds": [0, 1, 2], "num_inference_steps": 2}
    for a, b in zip(
        opened.reconstruct(z, **drawing).images, model.reconstruct(z, **drawing).images, strict=True
    ):
        assert pixel_gap(a, b) <= 1
    assert opened.caption_from_z(z, max_new_tokens=4) == model.caption_from_z(z, max_new_tokens=4)


def test_captions_are_scored_by_the_family_s_own_loss(model: VLV, images: list) -> None:
    picture = images[0].resize((model.decoder.image_size,) * 2)
    settings = VerifySettings(levels=(0.4, 0.7), repeats=2, against="noise")
    errors = DenoisingScorer(model, picture, settings).errors(["a red cube", "a blue ball"])
    assert errors.shape == (2, 2, 2) and torch.isfinite(errors).all() and (errors > 0).all()


def test_every_block_that_the_denoiser_repeats_is_compiled(model: VLV) -> None:
    denoiser = copy.deepcopy(model.decoder.denoiser)
    compiled = compile_blocks(denoiser)
    inside = tuple(f"{name}." for name in compiled)
    parameters = dict(denoiser.named_parameters())
    of_blocks = [value for name, value in parameters.items() if name.startswith(inside)]
    # What is outside enters and leaves the blocks, or has sizes that no other has.
    assert sum(map(torch.numel, of_blocks)) > 0.5 * sum(map(torch.numel, parameters.values()))


@pytest.mark.slow
def test_compiled_blocks_give_the_loss_and_the_gradient_of_z(model: VLV, z: torch.Tensor) -> None:
    decoder, tower = model.decoder, model.text_tower
    latents = torch.randn(2, *decoder.latent_shape)
    noise, times = (
        torch.randn_like(latents),
        decoder.noise_process.timesteps(torch.tensor([0.3, 0.8])),
    )

    def loss_and_gradient() -> tuple[torch.Tensor, torch.Tensor]:
        leaf = z.clone().requires_grad_()
        loss = decoder.denoising_loss(latents, tower(leaf), noise, times).mean()
        (gradient,) = torch.autograd.grad(loss, leaf)
        return loss.detach(), gradient

    loss, gradient = loss_and_gradient()
    denoiser = copy.deepcopy(decoder.denoiser)
    compile_blocks(denoiser)
    decoder = type(decoder)(
        decoder.vae, denoiser, decoder.scheduler, decoder.image_size, decoder.family.name
    )
    compiled_loss, compiled_gradient = loss_and_gradient()
    assert torch.allclose(compiled_loss, loss, rtol=1e-4)
    assert (compiled_gradient - gradient).norm() < 1e-3 * gradient.norm()


def test_a_pipeline_s_name_picks_the_family(model: VLV) -> None:
    name = model.manifest.config.family
    assert family_of(FAMILIES[name].pipeline) == name
    assert load_family(name).name == name
    assert model.can_draw and model.decoder.family.name == name


def test_a_vae_of_another_family_serves_too(model: VLV) -> None:
    decoder = model.decoder
    without_shift = {k: v for k, v in decoder.vae.config.items() if k != "shift_factor"}
    vae = type(decoder.vae).from_config(without_shift)
    other = type(decoder)(
        vae, decoder.denoiser, decoder.scheduler, decoder.image_size, decoder.family.name
    )
    uncond = model.text_tower.unconditional(1, 77)
    drawn = other.generate(uncond, uncond=uncond, num_inference_steps=1, seeds=[0])
    assert drawn[0].size == (decoder.image_size,) * 2


@pytest.mark.parametrize("entry", ["embeddings", "conditioning"])
@torch.no_grad()
def test_a_dropped_caption_is_trained_on_as_guidance_uses_it(model: VLV, entry: str) -> None:
    tower, decoder = copy.deepcopy((model.text_tower, model.decoder))
    if entry == "conditioning":
        tower = ConditioningEntry(tower)
    latents, noise = torch.randn(2, 2, 1, *decoder.latent_shape)
    batch = {
        "latents": latents,
        "noise": noise,
        "u": torch.rand(2, 1),
        "input_ids": tower.tokenise(["a small red cube", ""]),
        "dropped": torch.tensor([False, True]),
    }
    text = tower.encode_text(["a small red cube"])
    c = concatenated([text, model.text_tower.unconditional(1, text.tokens.shape[1])])
    loss, _ = TextToImageObjective(tower, decoder)(batch)
    torch.testing.assert_close(loss, denoising_loss(decoder, batch, c))


@torch.no_grad()
def test_latents_are_computed_once_by_the_vae_of_the_family(model: VLV, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "webdataset")
    model.save_pretrained(tmp_path / "model")
    words = ["data", "latents", images, "--out", tmp_path / "latents"]
    options = ["--model", tmp_path / "model", "--index-folder", tmp_path / "index"]
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in (*words, *options)])
    assert ended.value.code == 1  # some images are refused, and named
    decoder = model.decoder
    cache = SetLatents(tmp_path / "latents", LatentScale.of(decoder.vae))
    picture = torch.from_numpy(decoder_pixels(sample(0).picture(), decoder.image_size).copy())
    noise = torch.randn(decoder.latent_shape)
    expected = decoder.encode_images(to_pixels(picture[None]), noise[None])[0]
    torch.testing.assert_close(cache.sample(0, noise), expected, atol=2e-3, rtol=2e-3)


@torch.no_grad()
def test_phi_starts_at_the_scale_of_what_z_stands_for(model: VLV) -> None:
    tower, old = model.text_tower, model.encoder
    torch.manual_seed(0)
    fresh = VLVEncoder(old.florence, old.tokenizer, old.settings, tower.slot_widths)
    pictures = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    before = fresh(fresh.preprocess(pictures))
    fresh.start_at(tower.embedding_scales())
    z = fresh(fresh.preprocess(pictures))
    if model.decoder.family.name == "stable-diffusion":
        assert torch.equal(z, before)  # as in the paper
        return
    both = zip(tower.encoders.values(), tower.tokenizers.values(), strict=True)
    for part, (encoder, tokenizer) in zip(tower.of_slots(z), both, strict=True):
        embedded = encoder.get_input_embeddings()(prompt_ids(tokenizer, TEXTS, 20))
        assert 0.4 < part.square().mean().sqrt() / embedded.square().mean().sqrt() < 2.5


@torch.no_grad()
def test_an_encoder_may_write_what_the_denoiser_reads(model: VLV) -> None:
    entry, decoder = ConditioningEntry(model.text_tower), model.decoder
    noisy = torch.randn(2, *decoder.latent_shape)
    times = decoder.noise_process.timesteps(torch.tensor([0.2, 0.9]))
    c = entry(torch.randn(2, 6, entry.width))
    assert c.tokens.shape == (2, 6, entry.conditioning_width)
    assert decoder.predict(noisy, times, c).shape == noisy.shape
    texts = entry.encode_text(TEXTS[:2])
    assert torch.equal(texts.tokens, model.text_tower.encode_text(TEXTS[:2]).tokens)
    # With guidance, of embeddings and of texts.
    entered = VLV.from_boxes(text_tower=entry, decoder=decoder)
    settings = {"num_inference_steps": 2, "seeds": [1, 2]}
    z = torch.randn(2, 6, entry.width)
    assert len(entered.reconstruct(z, **settings).images) == 2
    (alone,) = entered.reconstruct(z[1:], **{**settings, "seeds": [2]}).images
    assert pixel_gap(alone, entered.reconstruct(z, **settings).images[1]) <= 2
    both = zip(
        entered.draw(TEXTS[:2], **settings).images,
        model.draw(TEXTS[:2], **settings).images,
        strict=True,
    )
    assert all(pixel_gap(one, other) <= 1 for one, other in both)
    cut = entry.cut_for(entry.encode_text(["a blue ball"]), c)
    assert cut.tokens.shape == c[:1].tokens.shape and cut.extras.keys() == c.extras.keys()
    cut = entry.cut_for(entry.encode_text(["a blue ball"]), texts)
    assert torch.equal(cut.tokens, entry.encode_text(["a blue ball"]).tokens)
    assert cut.extras.keys() == texts.extras.keys()


@torch.no_grad()
def test_what_the_mask_leaves_out_changes_nothing_where_the_family_says_so(model: VLV) -> None:
    decoder = model.decoder
    noisy = torch.randn(1, *decoder.latent_shape)
    times = decoder.noise_process.timesteps(torch.tensor([0.5]))
    z = torch.randn(2, 6, model.text_tower.width)
    z[1, :3] = z[0, :3]
    mask = torch.tensor([[True] * 3 + [False] * 3])
    one, other = (
        decoder.predict(noisy, times, replace(model.text_tower(row[None]), mask=mask)) for row in z
    )
    assert torch.allclose(one, other, atol=1e-5) == decoder.family.heeds_mask


@torch.no_grad()
def test_the_first_tokens_of_c_are_those_of_the_first_embeddings_where_the_tower_says_so(
    model: VLV, z: torch.Tensor
) -> None:
    tower = model.text_tower
    alone, among = tower(z[:, :3]).tokens, tower(z).tokens
    same = alone.shape[1] == 3 and torch.allclose(alone, among[:, :3], atol=1e-5)
    assert same == tower.causal
    assert ConditioningEntry(tower).causal


@torch.no_grad()
def test_the_attention_that_cpus_train_with_gives_the_same(model: VLV) -> None:
    decoder = copy.deepcopy(model.decoder)
    noisy = torch.randn(1, *decoder.latent_shape)
    times = decoder.noise_process.timesteps(torch.tensor([0.5]))
    c = model.text_tower(torch.randn(1, 6, model.text_tower.width))
    expected = decoder.predict(noisy, times, c)
    use_fast_attention(decoder, torch.device("cpu"))
    assert torch.allclose(decoder.predict(noisy, times, c), expected, atol=1e-5)


@pytest.mark.slow
def test_sixty_four_scenes_are_learned_through_the_frozen_model(model: VLV) -> None:
    """The encoder alone learns them by heart, at one draw of noise each: the loss under a scene's
    own z falls well below that under another scene's.
    """
    torch.manual_seed(0)
    decoder, tower, encoder = model.decoder, model.text_tower, copy.deepcopy(model.encoder)
    size = (decoder.image_size,) * 2
    scenes = [Image.fromarray(render(sample_scene(seed))).resize(size) for seed in range(64)]
    pixels = torch.from_numpy(np.stack([np.asarray(scene) for scene in scenes]))
    with torch.no_grad():
        latents = decoder.encode_images(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
    noise = torch.randn_like(latents)
    times = decoder.noise_process.timesteps(torch.linspace(0.3, 0.9, 64))
    seen = encoder.preprocess(scenes)
    encoder.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=3e-3, weight_decay=0.0)
    losses = []
    for _ in range(400):
        loss = decoder.denoising_loss(latents, tower(encoder(seen)), noise, times).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        z = encoder.eval()(seen)
        own, other = (
            float(decoder.denoising_loss(latents, tower(one), noise, times).mean())
            for one in (z, z.roll(1, 0))
        )
    assert own < 0.95 * losses[0] and own < 0.95 * other, (own, other, losses[0])


@pytest.mark.parametrize(
    ("name", "key", "value", "words"),
    [
        ("sdxl", "cross_attention_dim", 20, "cross_attention_dim .20. must equal .* .36."),
        ("sdxl", "projection_class_embeddings_input_dim", 20, "input_dim .20. .* .36."),
        ("sdxl", "addition_embed_type", None, "addition_embed_type must be text_time"),
        ("sd3", "joint_attention_dim", 20, "joint_attention_dim .20. must be at least"),
        ("sd3", "pooled_projection_dim", 20, "pooled_projection_dim .20. must equal"),
        (
            "sd3",
            "in_channels",
            4,
            "in_channels .4. must equal vae.latent_channels .16.",
        ),
        ("sana", "caption_channels", 8, "caption_channels .8. must equal .*hidden_size .20."),
        ("sana", "cross_attention_dim", 8, "cross_attention_dim .8. must equal num_attention"),
        (
            "sana",
            "in_channels",
            4,
            "in_channels .4. must equal vae.latent_channels .8.",
        ),
        (
            "flux",
            "joint_attention_dim",
            20,
            "joint_attention_dim .20. must equal .* .40.",
        ),
        ("flux", "pooled_projection_dim", 20, "pooled_projection_dim .20. must equal .* .16."),
        ("flux", "in_channels", 16, "in_channels .16. must equal 4 times vae.latent_channels .16."),
    ],
)
def test_widths_that_do_not_fit_are_named(
    name: FamilyName, key: str, value: int | None, words: str
) -> None:
    config, denoiser = TINY_FAMILIES[name], load_family(name).record.denoiser
    with pytest.raises(ValidationError, match=words):
        VLVConfig.model_validate({**config, denoiser: {**config[denoiser], key: value}})


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("sd3", {"unet": {}}),
        ("sd3", {"text_tower": {"text_encoder": {}}}),
        ("sana", {"text_tower": {"hidden_size": 20}}),
    ],
)
def test_a_config_has_the_parts_of_its_family(name: FamilyName, other: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=f"family {name}"):
        VLVConfig.model_validate({**TINY_FAMILIES[name], **other})


@torch.no_grad()
def test_the_picture_of_a_validation_is_counted_as_it_is_drawn(model: VLV) -> None:
    data = WorldDataConfig(split="train", count=8)
    config = Stage1Config(
        output_dir=Path("out"),
        initial_model=Path("vlv-mini"),
        data=data,
        max_train_steps=1,
        train_batch_size=1,
        learning_rate=1.0e-3,
    )
    boxes = boxes_of(copy.deepcopy(model))
    boxes.encoder.requires_grad_(True)
    with torch.enable_grad():
        work = count_work(config, MetaBoxes(boxes), 1)
    tower, decoder = model.text_tower, model.decoder
    c = tower(torch.zeros(1, tower.positions, tower.width))
    uncond = tower.unconditional_for(c)
    # The library counts no operations of its fused attention for CPUs.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        decoder.generate(c, uncond=uncond, num_inference_steps=PICTURE_STEPS, scheduler="euler")
    assert work.picture == pytest.approx(PICTURES * counter.get_total_flops(), rel=0.02)
