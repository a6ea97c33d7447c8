import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image

from vlv.errors import ConfigError
from vlv.models.conditioning import Conditioning
from vlv.models.config import SCHEDULERS
from vlv.pipeline import VLV


def _reschedule(model: VLV, **changes: object) -> None:
    config = {**model.decoder.scheduler.config, **changes}
    model.decoder.scheduler = DDPMScheduler.from_config(config)


def _arrays(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image).astype(int) for image in images])


@pytest.fixture
def c(model: VLV) -> Conditioning:
    with torch.no_grad():
        return model.condition(torch.randn(3, 6, 16, generator=torch.Generator().manual_seed(3)))


@pytest.fixture
def uncond(model: VLV) -> Conditioning:
    with torch.no_grad():
        return model.text_tower.unconditional(1, 6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_the_target_follows_prediction_type(
    model: VLV, c: Conditioning, prediction_type: str, zero_snr: bool
) -> None:
    _reschedule(model, prediction_type=prediction_type, rescale_betas_zero_snr=zero_snr)
    latents, noise = torch.randn(2, 3, 4, 4, 4)
    timesteps = torch.tensor([0, 500, 999])
    losses = model.decoder.denoising_loss(latents, c, noise, timesteps)
    assert losses.shape == (3,)
    assert losses.dtype == torch.float32

    # The formulas of DDPM and of progressive distillation, from the schedule's cumulative product.
    for i, t in enumerate(timesteps):
        alpha = model.decoder.scheduler.alphas_cumprod[t].sqrt()
        sigma = (1 - model.decoder.scheduler.alphas_cumprod[t]).sqrt()
        noisy = alpha * latents[i] + sigma * noise[i]
        target = {
            "epsilon": noise[i],
            "sample": latents[i],
            "v_prediction": alpha * noise[i] - sigma * latents[i],
        }[prediction_type]
        predicted = model.decoder.unet(
            noisy[None], t, encoder_hidden_states=c.tokens[i : i + 1]
        ).sample[0]
        expected = ((predicted - target) ** 2).mean()
        assert losses[i].item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_a_true_prediction_says_the_latents(model: VLV, prediction_type: str) -> None:
    _reschedule(model, prediction_type=prediction_type)
    process = model.decoder.noise_process
    latents, noise = torch.randn(2, 3, 4, 4, 4)
    timesteps = torch.tensor([0, 500, 900])
    noisy = process.noisy(latents, noise, timesteps)
    target = process.target(latents, noise, timesteps)
    found = process.denoised(noisy, target, timesteps)
    torch.testing.assert_close(found, latents, atol=1e-4, rtol=0)


def test_an_unknown_prediction_type_is_refused(model: VLV, c: Conditioning) -> None:
    _reschedule(model, prediction_type="flow")
    latents = torch.randn(3, 4, 4, 4)
    with pytest.raises(ConfigError, match="'flow'"):
        model.decoder.denoising_loss(latents, c, latents, torch.tensor([1, 2, 3]))
    with pytest.raises(ConfigError, match="'flow'"):
        model.decoder.noise_process.denoised(latents, latents, torch.tensor([1, 2, 3]))


def test_latents_are_scaled_by_the_vae_s_one_scalar(model: VLV) -> None:
    decoder = model.decoder
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    posterior = decoder.vae.encode(pixels).latent_dist
    noise = torch.randn(2, 4, 4, 4)
    assert torch.allclose(decoder.encode_images(pixels), posterior.mean * 0.3)
    drawn = (posterior.mean + posterior.std * noise) * 0.3
    assert torch.allclose(decoder.encode_images(pixels, noise), drawn)
    decoded = decoder.decode_latents(drawn)
    assert decoded.shape == (2, 3, 32, 32)
    assert torch.allclose(decoded, decoder.vae.decode(drawn / 0.3).sample, atol=1e-6)


@pytest.mark.parametrize("scheduler", [*SCHEDULERS, "HeunDiscreteScheduler"])
def test_samplers_keep_the_noise_schedule(
    model: VLV, c: Conditioning, uncond: Conditioning, scheduler: str
) -> None:
    sampler = model.decoder.sampler(scheduler)
    assert sampler.config.prediction_type == "v_prediction"
    assert sampler.config.timestep_spacing == "trailing"
    if scheduler != "HeunDiscreteScheduler":
        assert sampler.config.rescale_betas_zero_snr
    settings = {"uncond": uncond, "num_inference_steps": 3, "scheduler": scheduler}
    first = model.decoder.generate(c, seeds=[5, 6, 5], **settings)
    assert [image.size for image in first] == [(32, 32)] * 3
    again = model.decoder.generate(c, seeds=[5, 6, 5], **settings)
    assert (_arrays(first) == _arrays(again)).all()
    other = model.decoder.generate(c, seeds=[7, 8, 9], **settings)
    assert (_arrays(first) != _arrays(other)).any()


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm", "dpm++sde"])
def test_a_picture_does_not_depend_on_its_batch(
    model: VLV, c: Conditioning, uncond: Conditioning, scheduler: str
) -> None:
    settings = {"uncond": uncond, "num_inference_steps": 4, "scheduler": scheduler}
    together = model.decoder.generate(c, seeds=[1, 2, 3], **settings)
    alone = model.decoder.generate(c[2:], seeds=[3], **settings)
    assert np.abs(_arrays(together[2:]) - _arrays(alone)).max() <= 1


def test_without_seeds_torch_s_generator_decides(
    model: VLV, c: Conditioning, uncond: Conditioning
) -> None:
    settings = {"uncond": uncond, "num_inference_steps": 2}
    torch.manual_seed(4)
    first = model.decoder.generate(c, **settings)
    second = model.decoder.generate(c, **settings)
    torch.manual_seed(4)
    again = model.decoder.generate(c, **settings)
    assert (_arrays(first) == _arrays(again)).all()
    assert (_arrays(first) != _arrays(second)).any()


def test_ddim_agrees_with_the_paper_s_update_under_guidance(
    model: VLV, c: Conditioning, uncond: Conditioning
) -> None:
    """One step of DDIM from pure noise with v-prediction and guidance, by hand."""
    seeds, scale = [11], 3.0
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(11))
    with torch.no_grad():
        t = torch.tensor(999)
        v_text = model.decoder.unet(latents, t, encoder_hidden_states=c.tokens[:1]).sample
        v_free = model.decoder.unet(latents, t, encoder_hidden_states=uncond.tokens).sample
        v = v_free + scale * (v_text - v_free)
        # Zero terminal signal: alpha_T = 0, so the clean latents are -v.
        pixels = model.decoder.decode_latents(-v)
    expected = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round()[0].permute(1, 2, 0).numpy()
    (drawn,) = model.decoder.generate(
        c[:1],
        uncond=uncond,
        seeds=seeds,
        guidance_scale=scale,
        num_inference_steps=1,
        scheduler="ddim",
    )
    assert np.abs(np.asarray(drawn).astype(float) - expected).max() <= 1


def test_a_guidance_scale_of_one_never_looks_at_the_unconditional_context(
    model: VLV, c: Conditioning, uncond: Conditioning
) -> None:
    settings = {"seeds": [1, 2, 3], "num_inference_steps": 2, "guidance_scale": 1.0}
    without = model.decoder.generate(c, **settings)
    given = model.decoder.generate(
        c, uncond=Conditioning(torch.full_like(uncond.tokens, torch.nan)), **settings
    )
    assert (_arrays(without) == _arrays(given)).all()
    guided = model.decoder.generate(c, uncond=uncond, **{**settings, "guidance_scale": 6.0})
    assert (_arrays(without) != _arrays(guided)).any()


def test_wrong_use_is_named(model: VLV, c: Conditioning, uncond: Conditioning) -> None:
    with pytest.raises(ConfigError, match="pass uncond"):
        model.decoder.generate(c)
    for scale in (0.5, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="at least 1"):
            model.decoder.generate(c, uncond=uncond, guidance_scale=scale)
    with pytest.raises(ConfigError, match="2 seeds for 3"):
        model.decoder.generate(c, uncond=uncond, seeds=[1, 2])
    for seed in (-1, 2**63, 1.5, "2"):
        with pytest.raises(ConfigError, match="Seeds must be"):
            model.decoder.generate(c, uncond=uncond, seeds=[1, 2, seed])
    for steps in (0, 1001):
        with pytest.raises(ConfigError, match="must be 1 to 1000"):
            model.decoder.generate(c, uncond=uncond, num_inference_steps=steps)
    with pytest.raises(ConfigError, match="'plms2'"):
        model.decoder.generate(c, uncond=uncond, scheduler="plms2")
    with pytest.raises(ConfigError, match="'AutoencoderKL'"):
        model.decoder.generate(c, uncond=uncond, scheduler="AutoencoderKL")


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_more_steps_than_a_schedule_with_an_offset_has_are_refused(
    model: VLV, c: Conditioning, scheduler: str
) -> None:
    """Stable Diffusion's, on which samplers fail in ways of their own."""
    _reschedule(model, timestep_spacing="leading", steps_offset=1)
    drawing = {"guidance_scale": 1.0, "scheduler": scheduler}
    with pytest.raises(ConfigError, match="cannot take 1000 steps"):
        model.decoder.generate(c, num_inference_steps=1000, **drawing)
    assert len(model.decoder.generate(c, num_inference_steps=3, **drawing)) == 3


def test_sampling_is_quiet(
    model: VLV,
    c: Conditioning,
    uncond: Conditioning,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    model.decoder.generate(c, uncond=uncond, num_inference_steps=2)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""
    shown = [w for w in recwarn.list if not issubclass(w.category, DeprecationWarning)]
    assert not shown
