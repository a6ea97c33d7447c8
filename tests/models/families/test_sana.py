"""Sana: equal to the library's own pipeline and training script."""

import inspect

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SanaPipeline,
)
from tests.models.families.gemma_tokenizer import gemma_tokenizer
from tests.models.families.tiny_families import TINY_FAMILIES, check_flow_loss, pixel_gap
from tests.tiny import spread
from transformers import Gemma2Config, Gemma2Model

from vlv.errors import ConfigError
from vlv.models.config import FamilyName
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.families.sana import INSTRUCTION, SanaTextTower, full_mask
from vlv.pipeline import VLV

TEXTS = ["A small red cube ", "the light comes from the right. " * 30, ""]
SHORT = "Say more:\nUser Prompt: "
EMBEDS = ("prompt_embeds", "prompt_attention_mask")


@pytest.fixture(scope="module")
def gemma() -> Gemma2Model:
    torch.manual_seed(1)
    sizes = TINY_FAMILIES["sana"]["text_tower"]["text_encoder"]
    model = Gemma2Model(Gemma2Config(**sizes, vocab_size=len(gemma_tokenizer()))).eval()
    spread(model)
    return model.requires_grad_(False)


@pytest.fixture
def tower(gemma: Gemma2Model) -> SanaTextTower:
    return SanaTextTower(gemma, gemma_tokenizer(), SHORT)


@pytest.fixture
def decoder(models: dict[FamilyName, VLV]) -> DiffusionDecoder:
    return models["sana"].decoder


def _pipeline(decoder: DiffusionDecoder, tower: SanaTextTower) -> SanaPipeline:
    return SanaPipeline(
        tokenizer=gemma_tokenizer(),
        text_encoder=tower.text_encoder,
        vae=decoder.vae,
        transformer=decoder.transformer,
        scheduler=decoder.scheduler,
    )


def test_the_instruction_is_the_pipeline_s_own() -> None:
    default = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"]
    assert "\n".join(default.default) == INSTRUCTION


@pytest.mark.parametrize("instruction", ["", SHORT, INSTRUCTION], ids=["none", "short", "default"])
@torch.no_grad()
def test_texts_give_what_the_pipeline_makes_of_them(
    decoder: DiffusionDecoder, gemma: Gemma2Model, instruction: str
) -> None:
    tower = SanaTextTower(gemma, gemma_tokenizer(), instruction)
    expected, mask, negative, negative_mask = _pipeline(decoder, tower).encode_prompt(
        TEXTS,
        device="cpu",
        complex_human_instruction=instruction.split("\n") if instruction else None,
    )
    found = decoder.family.embeds(decoder.transformer, tower.encode_text(TEXTS))
    assert mask.sum(1).tolist()[1] == 300 and mask.sum(1).tolist()[0] < 40
    assert torch.equal(found["prompt_attention_mask"], mask)
    assert torch.allclose(found["prompt_embeds"], expected, atol=1e-5)
    empty = decoder.family.embeds(decoder.transformer, tower.unconditional(3, 299))
    assert torch.equal(empty["prompt_attention_mask"], negative_mask)
    assert torch.allclose(empty["prompt_embeds"], negative, atol=1e-5)


def test_a_text_that_is_cut_is_one_behind_the_instruction(tower: SanaTextTower) -> None:
    prompts = tower.prompt_tokens
    assert prompts.room == (299,)
    for text, whole in (("red " * 20, True), ("red " * 400, False)):
        cut = bool(prompts([text])[0, -1] != tower.tokenizer.pad_token_id)
        assert (prompts.reads_whole(text), prompts.read_whole(text)) == (whole, [whole])
        assert cut != whole


@torch.no_grad()
def test_an_empty_text_behind_the_instruction_is_not_what_guidance_uses(
    tower: SanaTextTower,
) -> None:
    """The space that ends the instruction is read as a text."""
    assert not tower.unconditional_is_a_text
    text, uncond = tower.encode_text([""]).mask, tower.unconditional(1, 299).mask
    assert text is not None and uncond is not None
    assert (int(text.sum()), int(uncond.sum())) == (1, 0)


@torch.no_grad()
def test_scaled_token_embeddings_as_z_give_the_states_of_the_text(tower: SanaTextTower) -> None:
    ids = tower.tokenise(TEXTS)[1:2]  # a text that fills all positions
    start = tower.prefix_length
    assert start > 1 and torch.equal(ids[:, :start], tower.prefix_ids)
    table = tower.text_encoder.embed_tokens.weight
    scaled = table[ids[:, start:]] * tower.width**0.5
    text, embedded = tower.encode_ids(ids), tower(scaled)
    assert torch.allclose(text.tokens, embedded.tokens, atol=1e-5)
    assert torch.allclose(text.extras["first"], embedded.extras["first"], atol=1e-6)
    assert not torch.allclose(text.tokens, tower(table[ids[:, start:]]).tokens, atol=1e-2)


@torch.no_grad()
def test_the_first_token_s_state_is_the_same_for_every_z(tower: SanaTextTower) -> None:
    c = tower(torch.randn(3, 5, tower.width))
    assert c.tokens.shape == (3, 5, tower.width)
    first = c.extras["first"]
    assert torch.allclose(first[0], first[1], atol=1e-6)
    assert not torch.allclose(c.tokens[0], c.tokens[1], atol=1e-2)
    assert full_mask(c).shape == (3, 6) and full_mask(c).all()


def test_the_loss_is_that_of_the_library_s_training_script(
    decoder: DiffusionDecoder, tower: SanaTextTower
) -> None:
    c = tower(torch.randn(4, 5, tower.width))
    embeds, mask = (decoder.family.embeds(decoder.transformer, c)[name] for name in EMBEDS)

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return decoder.transformer(
            hidden_states=noisy,
            encoder_hidden_states=embeds,
            encoder_attention_mask=mask,
            timestep=timesteps,
            return_dict=False,
        )[0]

    check_flow_loss(decoder, c, predict)


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_the_picture_is_the_pipeline_s_own(
    decoder: DiffusionDecoder, tower: SanaTextTower, sampler: str
) -> None:
    pipeline = _pipeline(decoder, tower)
    if sampler == "dpm++":  # as it is published
        pipeline.scheduler = DPMSolverMultistepScheduler(
            use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
        )
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        TEXTS[0],
        num_inference_steps=4,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(4),
        height=32,
        width=32,
        complex_human_instruction=SHORT.split("\n"),
        use_resolution_binning=False,
    ).images[0]
    with torch.no_grad():
        c = tower.encode_text(TEXTS[:1])
        uncond = tower.unconditional(1, c.tokens.shape[1])
    drawing = {"guidance_scale": 3.0, "num_inference_steps": 4, "scheduler": sampler}
    found = decoder.generate(c, uncond=uncond, seeds=[4], **drawing)[0]
    assert np.asarray(expected).std() > 5
    assert pixel_gap(found, expected) <= 1


def test_a_sampler_of_another_kind_of_noise_is_refused(models: dict[FamilyName, VLV]) -> None:
    flow, ddpm = models["sana"].decoder, models["stable-diffusion"].decoder
    for name in ("DDIMScheduler", "EulerDiscreteScheduler"):
        with pytest.raises(
            ConfigError, match=f"{name} is of DDPM noise, .* ddim, dpm\\+\\+sde, euler"
        ):
            flow.sampler(name)
    with pytest.raises(ConfigError, match="FlowMatchEulerDiscreteScheduler is of flows"):
        ddpm.sampler("FlowMatchEulerDiscreteScheduler")
    for name in ("dpm++", "UniPCMultistepScheduler"):
        assert flow.sampler(name).config.use_flow_sigmas
        assert flow.sampler(name).config.flow_shift == 3.0
    assert isinstance(flow.sampler("ddim"), FlowMatchEulerDiscreteScheduler)
