"""Stable Diffusion 3: equal to the library's own pipeline and training script."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from tests.models.families.tiny_families import T5, check_flow_loss, embedded_ids, pixel_gap
from transformers import CLIPTokenizer, T5Config, T5EncoderModel

from vlv.models.config import FamilyName
from vlv.models.families.sd3 import SD3TextTower
from vlv.pipeline import VLV

NAMES = ("text_encoder", "text_encoder_2", "text_encoder_3")
TEXTS = ["a small red cube", "the light comes from the right. " * 30, ""]


@pytest.fixture
def model(models: dict[FamilyName, VLV]) -> VLV:
    return models["sd3"]


@pytest.fixture(params=[False, True], ids=["without T5", "with T5"])
def tower(
    request: pytest.FixtureRequest, model: VLV, clip_tokenizer: CLIPTokenizer
) -> SD3TextTower:
    return _with_t5(model, clip_tokenizer) if request.param else model.text_tower


def _with_t5(model: VLV, clip_tokenizer: CLIPTokenizer) -> SD3TextTower:
    torch.manual_seed(1)
    t5 = T5EncoderModel(T5Config(vocab_size=len(clip_tokenizer), **T5)).eval()
    return SD3TextTower(
        {**model.text_tower.encoders, "text_encoder_3": t5},
        {**model.text_tower.tokenizers, "text_encoder_3": clip_tokenizer},
    )


def _pipeline(model: VLV, tower: SD3TextTower) -> StableDiffusion3Pipeline:
    parts = {name: tower.encoders.get(name) for name in NAMES}
    tokenizers = {
        name.replace("text_encoder", "tokenizer"): tower.tokenizers.get(name) for name in NAMES
    }
    decoder = model.decoder
    return StableDiffusion3Pipeline(
        transformer=decoder.transformer,
        scheduler=decoder.scheduler,
        vae=decoder.vae,
        **parts,
        **tokenizers,
    )


@torch.no_grad()
def test_texts_give_what_the_pipeline_makes_of_them(model: VLV, tower: SD3TextTower) -> None:
    pipeline = _pipeline(model, tower)
    pipeline.tokenizer_max_length = 77
    expected, negative, pooled, negative_pooled = pipeline.encode_prompt(
        TEXTS, None, None, device="cpu", negative_prompt=""
    )
    family, transformer = model.decoder.family, model.decoder.transformer
    found = family.embeds(transformer, tower.encode_text(TEXTS))
    assert torch.allclose(found["prompt_embeds"], expected, atol=1e-5)
    assert torch.allclose(found["pooled_prompt_embeds"], pooled, atol=1e-5)
    empty = family.embeds(transformer, tower.unconditional(3))
    assert torch.allclose(empty["prompt_embeds"], negative, atol=1e-5)
    assert torch.allclose(empty["pooled_prompt_embeds"], negative_pooled, atol=1e-5)


@torch.no_grad()
def test_token_embeddings_as_z_give_the_tokens_of_the_text(model: VLV) -> None:
    tower = model.text_tower
    ids = tower.tokenise(TEXTS)
    text, embedded = tower.encode_ids(ids), tower(embedded_ids(tower, ids))
    assert torch.allclose(text.tokens, embedded.tokens, atol=1e-6)
    # z has no end token, so its pooled state is that of the last position.
    full = ids[1].eq(tower.tokenizers["text_encoder"].eos_token_id)
    assert full.nonzero()[0] == 76  # a text that fills all positions ends there
    assert torch.allclose(text.pooled[1], embedded.pooled[1], atol=1e-6)
    assert not torch.allclose(text.pooled[0], embedded.pooled[0], atol=1e-3)


@torch.no_grad()
def test_t5_is_a_third_slot_whose_tokens_follow(tower: SD3TextTower) -> None:
    z = torch.randn(2, 5, tower.width)
    c = tower(z)
    with_t5 = len(tower.slots) == 3
    assert c.tokens.shape == ((2, 10, 40) if with_t5 else (2, 5, 36))
    assert tower.unconditional(2, c.tokens.shape[1]).tokens.shape == c.tokens.shape
    if with_t5:
        own = tower.text_encoder_3(inputs_embeds=tower.of_slots(z)[2]).last_hidden_state
        assert torch.equal(c.tokens[:, 5:], own)
        assert (c.tokens[:, :5, 36:] == 0).all()


def test_a_model_with_t5_draws_and_is_opened_again(
    model: VLV, clip_tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    tower = _with_t5(model, clip_tokenizer)
    whole = VLV.from_boxes(text_tower=tower, decoder=model.decoder)
    z = 0.5 * torch.randn(1, 6, tower.width)
    settings = {"seeds": [1], "num_inference_steps": 2}
    pictures = [whole.reconstruct(z, **settings), whole.draw(["a red cube"], **settings)]
    whole.save_pretrained(tmp_path / "model")
    opened = VLV.from_pretrained(tmp_path / "model")
    assert [slot.name for slot in opened.text_tower.slots] == ["clip_l", "clip_g", "t5"]
    again = [opened.reconstruct(z, **settings), opened.draw(["a red cube"], **settings)]
    for one, other in zip(pictures, again, strict=True):
        assert pixel_gap(one.images[0], other.images[0]) <= 1


def test_the_loss_is_that_of_the_library_s_training_script(model: VLV) -> None:
    decoder = model.decoder
    c = model.text_tower(torch.randn(4, 5, model.text_tower.width))
    embeds = decoder.family.embeds(decoder.transformer, c)

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return decoder.transformer(
            hidden_states=noisy,
            timestep=timesteps,
            encoder_hidden_states=embeds["prompt_embeds"],
            pooled_projections=embeds["pooled_prompt_embeds"],
        ).sample

    check_flow_loss(decoder, c, predict)


def test_the_picture_is_the_pipeline_s_own(model: VLV) -> None:
    pipeline = _pipeline(model, model.text_tower)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        TEXTS[0],
        num_inference_steps=3,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(4),
        height=32,
        width=32,
    ).images[0]
    found = model.draw([TEXTS[0]], seeds=[4], num_inference_steps=3, guidance_scale=3.0).images[0]
    assert pixel_gap(found, expected) <= 1
