"""FLUX.1: equal to the library's own pipeline and training script."""

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from tests.models.families.tiny_families import TINY_FAMILIES

from vlv.errors import ConfigError
from vlv.models.config import FamilyName
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.families.flux import LOSS_GUIDANCE, packed, positions, unpacked
from vlv.pipeline import VLV

TEXTS = ["a small red cube", "the light comes from the right. " * 30, ""]


@pytest.fixture
def model(models: dict[FamilyName, VLV]) -> VLV:
    return models["flux"]


def _pipeline(decoder: DiffusionDecoder, model: VLV) -> FluxPipeline:
    tower = model.text_tower
    pipeline = FluxPipeline(
        transformer=decoder.transformer,
        scheduler=decoder.sampler("euler"),
        vae=decoder.vae,
        tokenizer=tower.tokenizers["text_encoder"],
        tokenizer_2=tower.tokenizers["text_encoder_2"],
        **tower.encoders,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def schnell() -> DiffusionDecoder:
    """Not distilled from guidance, and with a schedule that does not depend on the picture."""
    torch.manual_seed(0)
    config = TINY_FAMILIES["flux"]
    transformer = {**config["transformer"], "guidance_embeds": False}
    scheduler = {"num_train_timesteps": 1000, "shift": 1.0}
    made = DiffusionDecoder.from_config(config["vae"], transformer, scheduler, 32, "flux")
    return made.eval().requires_grad_(False)


@torch.no_grad()
def test_texts_give_what_the_pipeline_makes_of_them(model: VLV) -> None:
    expected, pooled, _ = _pipeline(model.decoder, model).encode_prompt(TEXTS, device="cpu")
    c = model.text_tower.encode_text(TEXTS)
    assert c.tokens.shape[1] == 512
    assert torch.allclose(c.tokens, expected, atol=1e-5)
    assert torch.allclose(c.pooled, pooled, atol=1e-5)


@torch.no_grad()
def test_token_embeddings_as_z_give_the_tokens_of_the_text(model: VLV) -> None:
    tower = model.text_tower
    # T5 attends in both directions, so that both are as long as each other: 77 positions of each.
    clip_ids, t5_ids = (one[:, :77] for one in tower.ids_of_slots(tower.tokenise(TEXTS)))
    z = torch.cat(
        [
            tower.text_encoder.get_input_embeddings()(clip_ids),
            tower.text_encoder_2.get_input_embeddings()(t5_ids),
        ],
        dim=-1,
    )
    embedded = tower(z)
    read = tower.text_encoder_2(t5_ids).last_hidden_state
    pooled = tower.text_encoder(clip_ids).pooler_output
    assert torch.allclose(embedded.tokens, read, atol=1e-6)
    # The second text fills all positions, so that its end token is where z's pooled state is from.
    assert torch.allclose(embedded.pooled[1], pooled[1], atol=1e-6)
    assert not torch.allclose(embedded.pooled[0], pooled[0], atol=1e-3)


def test_latents_are_packed_as_the_library_packs_them() -> None:
    latents = torch.randn(2, 16, 4, 6)
    assert torch.equal(packed(latents), FluxPipeline._pack_latents(latents, 2, 16, 4, 6))
    assert torch.equal(unpacked(packed(latents), 4, 6), latents)
    expected = FluxPipeline._prepare_latent_image_ids(2, 2, 3, "cpu", torch.float32)
    assert torch.equal(positions(2, 3, latents), expected)


@pytest.mark.parametrize("distilled", [True, False], ids=["dev", "schnell"])
def test_the_loss_is_that_of_the_library_s_training_script(
    model: VLV, schnell: DiffusionDecoder, distilled: bool
) -> None:
    decoder = model.decoder if distilled else schnell
    scheduler = decoder.scheduler
    c = model.text_tower(torch.randn(4, 5, model.text_tower.width))
    latents, noise = torch.randn(2, 4, *decoder.latent_shape)
    u = torch.tensor([0.0, 0.1, 0.5, 0.9])
    # The script looks levels up in a descending list of timesteps.
    indices = ((1 - u) * 1000).long() - 1
    timesteps, sigmas = scheduler.timesteps[indices], scheduler.sigmas[indices].view(-1, 1, 1, 1)
    noisy = (1.0 - sigmas) * latents + sigmas * noise
    transformer: FluxTransformer2DModel = decoder.transformer
    with torch.no_grad():
        predicted = transformer(
            hidden_states=FluxPipeline._pack_latents(noisy, 4, 16, 4, 4),
            timestep=timesteps / 1000,
            guidance=torch.full((4,), LOSS_GUIDANCE) if distilled else None,
            pooled_projections=c.pooled,
            encoder_hidden_states=c.tokens,
            txt_ids=torch.zeros(5, 3),
            img_ids=FluxPipeline._prepare_latent_image_ids(4, 2, 2, "cpu", torch.float32),
        ).sample
        predicted = FluxPipeline._unpack_latents(predicted, 32, 32, 8)
        expected = (predicted - (noise - latents)).square().flatten(1).mean(1)
        process = decoder.noise_process
        found = decoder.denoising_loss(latents, c, noise, process.timesteps(u))
    assert torch.allclose(process.timesteps(u), timesteps, atol=1e-2)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("distilled", [True, False], ids=["dev", "schnell"])
def test_the_picture_is_the_pipeline_s_own(
    model: VLV, schnell: DiffusionDecoder, distilled: bool
) -> None:
    decoder = model.decoder if distilled else schnell
    text = model.text_tower.encode_text(TEXTS[:1])
    pictures = []
    for scale in (1.0, 6.0):
        expected = _pipeline(decoder, model)(
            TEXTS[0],
            num_inference_steps=3,
            guidance_scale=scale,
            generator=torch.Generator().manual_seed(4),
            height=32,
            width=32,
        ).images[0]
        (found,) = decoder.generate(text, seeds=[4], num_inference_steps=3, guidance_scale=scale)
        pictures.append(np.asarray(found, int))
        assert np.abs(pictures[-1] - np.asarray(expected, int)).max() <= 1
    # The scale is an input of a distilled network, and nothing to the other.
    assert (np.abs(pictures[0] - pictures[1]).max() > 0) == distilled


def test_a_text_is_drawn_without_a_negative_prompt(model: VLV) -> None:
    text = model.text_tower.encode_text(TEXTS[:1])
    (alone,) = model.decoder.generate(text, seeds=[4], num_inference_steps=2, guidance_scale=3.5)
    drawn = model.draw(TEXTS[:1], seeds=[4], num_inference_steps=2, guidance_scale=3.5).images[0]
    assert np.array_equal(np.asarray(alone), np.asarray(drawn))
    with pytest.raises(ConfigError, match="no scheduler 'heun'"):
        model.draw(TEXTS[:1], scheduler="heun")
