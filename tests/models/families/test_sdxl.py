"""Stable Diffusion XL: equal to the library's own pipeline and training script."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline
from tests.models.families.tiny_families import embedded_ids, pixel_gap

from vlv.checkpoints.assemble import _text_tower
from vlv.models.config import FamilyName
from vlv.models.families.sdxl import EMPTY_IS_ZERO, time_ids
from vlv.pipeline import VLV

TEXTS = ["a small red cube", "the light comes from the right. " * 30, ""]


@pytest.fixture
def model(models: dict[FamilyName, VLV]) -> VLV:
    return models["sdxl"]


def _pipeline(model: VLV, zeros: bool) -> StableDiffusionXLPipeline:
    decoder, tower = model.decoder, model.text_tower
    pipeline = StableDiffusionXLPipeline(
        vae=decoder.vae,
        unet=decoder.unet,
        scheduler=DDIMScheduler.from_config(decoder.scheduler.config),
        tokenizer=tower.tokenizers["text_encoder"],
        tokenizer_2=tower.tokenizers["text_encoder_2"],
        **tower.encoders,
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(params=[True, False], ids=["zeros for empty", "text for empty"])
def zeros(request: pytest.FixtureRequest, model: VLV, monkeypatch: pytest.MonkeyPatch) -> bool:
    """What the pipeline's config says of the negative prompt, which the tower goes by."""
    config = model.text_tower.text_encoder_2.config
    monkeypatch.setattr(config, EMPTY_IS_ZERO, request.param, raising=False)
    return request.param


@torch.no_grad()
def test_texts_give_what_the_pipeline_makes_of_them(model: VLV, zeros: bool) -> None:
    expected, negative, pooled, negative_pooled = _pipeline(model, zeros).encode_prompt(
        TEXTS, device="cpu"
    )
    c = model.text_tower.encode_text(TEXTS)
    assert torch.allclose(c.tokens, expected, atol=1e-5)
    assert torch.allclose(c.pooled, pooled, atol=1e-5)
    empty = model.text_tower.unconditional(3, 77)
    assert bool((negative == 0).all()) == zeros
    assert torch.allclose(empty.tokens, negative, atol=1e-5)
    assert torch.allclose(empty.pooled, negative_pooled, atol=1e-5)


@torch.no_grad()
def test_token_embeddings_as_z_give_the_tokens_of_the_text(model: VLV) -> None:
    tower = model.text_tower
    ids = tower.tokenise(TEXTS)
    text, embedded = tower.encode_ids(ids), tower(embedded_ids(tower, ids))
    assert torch.allclose(text.tokens, embedded.tokens, atol=1e-6)
    # The second text fills all positions, so that its end token is where z's pooled state is from.
    assert torch.allclose(text.pooled[1], embedded.pooled[1], atol=1e-6)
    assert not torch.allclose(text.pooled[0], embedded.pooled[0], atol=1e-3)


def test_the_loss_is_that_of_the_library_s_training_script(model: VLV) -> None:
    decoder = model.decoder
    c = model.text_tower(torch.randn(3, 5, model.text_tower.width))
    latents, noise = torch.randn(2, 3, *decoder.latent_shape)
    timesteps = torch.tensor([0, 400, 999])
    size = decoder.image_size
    with torch.no_grad():
        predicted = decoder.unet(
            decoder.scheduler.add_noise(latents, noise, timesteps),
            timesteps,
            encoder_hidden_states=c.tokens,
            added_cond_kwargs={
                "text_embeds": c.pooled,
                "time_ids": torch.tensor([[size, size, 0, 0, size, size]] * 3),
            },
        ).sample
        expected = (predicted - noise).square().flatten(1).mean(1)
        found = decoder.denoising_loss(latents, c, noise, timesteps)
    assert torch.allclose(found, expected, atol=1e-5)


@torch.no_grad()
def test_the_network_reads_the_size_of_pictures(model: VLV) -> None:
    c = model.text_tower(torch.randn(2, 5, model.text_tower.width))
    assert time_ids(c, 512).tolist() == [[512, 512, 0, 0, 512, 512]] * 2
    noisy, times = torch.randn(2, *model.decoder.latent_shape), torch.tensor([10, 10])
    family, unet = model.decoder.family, model.decoder.unet
    small, large = (family.denoise(unet, noisy, times, c, size) for size in (32, 512))
    assert not torch.allclose(small, large, atol=1e-3)


def test_the_picture_is_the_pipeline_s_own(model: VLV, zeros: bool) -> None:
    expected = _pipeline(model, zeros)(
        TEXTS[0],
        num_inference_steps=3,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(4),
        height=32,
        width=32,
    ).images[0]
    drawing = {"num_inference_steps": 3, "guidance_scale": 3.0, "scheduler": "ddim"}
    found = model.draw([TEXTS[0]], seeds=[4], **drawing).images[0]
    assert pixel_gap(found, expected) <= 1


@pytest.mark.parametrize("written", [True, False])
def test_a_published_folder_says_what_guidance_steers_away_from(
    model: VLV, tmp_path: Path, written: bool
) -> None:
    _pipeline(model, written).save_pretrained(tmp_path)
    tower = _text_tower(tmp_path, "sdxl", torch.float32)
    assert bool((tower.unconditional(1, 6).tokens == 0).all()) == written
    text = model.text_tower.encode_text(TEXTS)
    assert torch.allclose(tower.encode_text(TEXTS).tokens, text.tokens, atol=1e-6)
