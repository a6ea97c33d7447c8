"""Weights of the denoising loss and densities of timesteps, against diffusers' own functions."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import (
    compute_density_for_timestep_sampling,
    compute_loss_weighting_for_sd3,
    compute_snr,
)
from tests.training.conftest import Workshop

from vlv.errors import ConfigError
from vlv.models.noise_process import DDPMNoise
from vlv.training.objectives.weighting import LossWeighting
from vlv.training.registry import build_stage
from vlv.training.samples.draws import TimestepDensity, denoising_draws

STEPS = torch.tensor([0, 1, 250, 500, 750, 998])


def process(kind: str, *, zero_snr: bool = False) -> DDPMNoise:
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear",
        prediction_type=kind,
        rescale_betas_zero_snr=zero_snr,
    )
    return DDPMNoise(scheduler)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weighs_the_error_of_the_sample_alike_whatever_is_predicted(kind: str) -> None:
    """What diffusers' text-to-image script computes, and what the paper says: min(SNR, 5) on the
    squared error of the sample.
    """
    noise = process(kind)
    snr = compute_snr(noise.scheduler, STEPS)
    # (sample error) = (error of what is predicted) / divisor.
    divisor = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}[kind]
    expected = torch.stack([snr, torch.full_like(snr, 5.0)]).amin(0) / divisor
    found = LossWeighting(snr_gamma=5.0).weights(noise, STEPS)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_min_snr_is_finite_where_no_signal_is_left(kind: str) -> None:
    noise = process(kind, zero_snr=True)
    found = LossWeighting(snr_gamma=5.0).weights(noise, torch.tensor([999]))
    assert found.isfinite().all()
    assert float(found) == pytest.approx(1.0 if kind == "epsilon" else 0.0, abs=1e-3)


@pytest.mark.parametrize("scheme", ["sigma_sqrt", "cosmap"])
def test_weights_are_those_of_sd3_at_the_same_snr(scheme: Any) -> None:
    noise = process("epsilon")
    snr = noise.snr(STEPS)
    sigma = 1 / (1 + snr.sqrt())
    torch.testing.assert_close(((1 - sigma) / sigma).square(), snr, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        LossWeighting(scheme).weights(noise, STEPS), compute_loss_weighting_for_sd3(scheme, sigma)
    )


@pytest.mark.parametrize("mean", [0.0, 0.8])
@pytest.mark.parametrize("kind", ["logit_normal", "mode"])
def test_densities_are_those_of_sd3(kind: Any, mean: float) -> None:
    """Quantiles of 100,000 levels; diffusers looks its levels up in a descending list."""
    count = 100_000
    settings = {"logit_mean": mean, "logit_std": 0.7, "mode_scale": 1.29}
    random = torch.Generator().manual_seed(0)
    theirs = compute_density_for_timestep_sampling(
        kind, count, **{**settings, "logit_mean": -mean}, generator=random
    )
    even = (torch.arange(count) + 0.5) / count
    ours = TimestepDensity(kind, **settings).levels(even)
    places = torch.tensor([0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99])
    torch.testing.assert_close(
        ours.quantile(places), (1 - theirs).quantile(places), atol=0.01, rtol=0
    )
    assert bool((ours.diff() >= 0).all())


def test_draws_of_a_picture_stay_spread_and_below_one() -> None:
    density = TimestepDensity("logit_normal", logit_std=3.0)
    for position in range(200):
        plain = denoising_draws((1, 1, 1), 0, position, draws=4)
        drawn = denoising_draws((1, 1, 1), 0, position, draws=4, density=density)
        assert torch.equal(plain["noise"], drawn["noise"])
        assert torch.equal(density.levels(plain["u"]), drawn["u"])
        assert bool((drawn["u"] < 1).all()) and bool((drawn["u"] >= 0).all())


def test_the_settings_reach_the_loss_and_the_draws(workshop: Workshop, tmp_path: Path) -> None:
    """Of stage 1 through its objective; validation does not change."""

    def made(**fields: Any) -> tuple[Any, dict[str, Any]]:
        stage = build_stage("stage1", workshop.config("stage1", output_dir=str(tmp_path), **fields))
        batch = torch.utils.data.default_collate([stage.samples.item(i, i) for i in range(4)])
        return stage.objective, batch

    plain, batch = made()
    weighted, _ = made(snr_gamma=5.0)
    process, timesteps = plain.decoder.noise_process, None
    timesteps = process.timesteps(batch["u"]).flatten()
    with torch.no_grad():
        c = plain.text_tower(plain.embeddings(batch))
        losses = plain.decoder.denoising_loss(
            batch["latents"].flatten(0, 1), c, batch["noise"].flatten(0, 1), timesteps
        )
        snr = compute_snr(process.scheduler, timesteps)
        expected = (losses * snr.clamp(max=5.0) / (snr + 1)).mean()
        torch.testing.assert_close(plain(batch)[0], losses.mean())
        torch.testing.assert_close(weighted(batch)[0], expected)
        assert plain.validate() == weighted.validate()
    _, other = made(weighting_scheme="logit_normal", logit_mean=1.0)
    expected_u = TimestepDensity("logit_normal", logit_mean=1.0).levels(batch["u"])
    assert torch.equal(other["u"], expected_u)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weighting_scheme": "mode", "timestep_bias": 2.0}, "both say how often timesteps"),
        ({"weighting_scheme": "mode", "mode_scale": 2.0}, "mode_scale: Input should be less"),
        ({"snr_gamma": 0.0}, "snr_gamma: Input should be greater than 0"),
    ],
)
def test_settings_that_contradict_are_one_sentence(
    workshop: Workshop, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_stage("stage1", workshop.config("stage1", **fields))
