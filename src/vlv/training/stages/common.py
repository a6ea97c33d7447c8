"""What the builders of several stages share."""

import logging
from typing import Literal

from pydantic import Field, model_validator

from vlv.errors import ConfigError
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.model_config import VLVConfig
from vlv.training.config import TrainingConfig
from vlv.training.objectives.weighting import LossWeighting
from vlv.training.samples.draws import LARGEST_MODE_SCALE, DrawSettings, TimestepDensity

logger = logging.getLogger(__name__)

_DENSITIES: dict[str, Literal["logit_normal", "mode"]] = {
    "logit_normal": "logit_normal",
    "mode": "mode",
}
_SETTINGS_OF_SCHEMES = {
    "logit_mean": "logit_normal",
    "logit_std": "logit_normal",
    "mode_scale": "mode",
}
_WEIGHTINGS: dict[str, Literal["sigma_sqrt", "cosmap"]] = {
    "sigma_sqrt": "sigma_sqrt",
    "cosmap": "cosmap",
}


class DenoisingConfig(TrainingConfig):
    """Fields of every stage with a denoising loss.

    `timestep_bias`: how much more often noisy timesteps are drawn; see `denoising_draws`.

    `weighting_scheme` is diffusers' for SD3: `logit_normal` and `mode` choose how often timesteps
    are drawn (see `TimestepDensity`), `sigma_sqrt` and `cosmap` how much they count (see
    `LossWeighting`). `snr_gamma` is min-SNR-gamma. Both leave validation as it is.
    """

    timestep_bias: float = Field(1.0, gt=0)
    weighting_scheme: Literal["none", "sigma_sqrt", "logit_normal", "mode", "cosmap"] = "none"
    logit_mean: float = 0.0
    logit_std: float = Field(1.0, gt=0)
    mode_scale: float = Field(1.29, ge=-1.0, le=LARGEST_MODE_SCALE)
    snr_gamma: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _settings_need_their_scheme(self) -> "DenoisingConfig":
        for name, scheme in _SETTINGS_OF_SCHEMES.items():
            is_set = getattr(self, name) != type(self).model_fields[name].default
            if is_set and self.weighting_scheme != scheme:
                raise ValueError(f"{name} needs weighting_scheme: {scheme}")
        return self

    @model_validator(mode="after")
    def _one_density(self) -> "DenoisingConfig":
        if self.timestep_bias != 1.0 and self.weighting_scheme in _DENSITIES:
            raise ValueError(
                f"timestep_bias and weighting_scheme: {self.weighting_scheme} both say how often "
                "timesteps are drawn; set one of them"
            )
        return self


def model_config(config: TrainingConfig) -> VLVConfig:
    """The sizes of the model, from the file that `model` names."""
    if config.model is None:
        raise ConfigError("this stage builds a network: set model to a model config (YAML)")
    return VLVConfig.from_yaml(config.model)


def warn_of_unread_model(config: TrainingConfig, networks: object) -> None:
    """Log that `model` has no effect where the networks are others. It is no error: a config with
    sizes goes on from a model by one more field.
    """
    if config.model is not None:
        logger.warning(
            "model: %s is not read, since the networks are those of %s; set model: null",
            config.model,
            networks,
        )


def draw_settings(
    config: DenoisingConfig, decoder: DiffusionDecoder, count: int = 1
) -> DrawSettings:
    """How noise is drawn for pictures that the decoder denoises, `count` times for each."""
    density = TimestepDensity(
        _DENSITIES.get(config.weighting_scheme, "uniform"),
        config.logit_mean,
        config.logit_std,
        config.mode_scale,
    )
    return DrawSettings(decoder.latent_shape, config.seed, config.timestep_bias, count, density)


def loss_weighting(config: DenoisingConfig) -> LossWeighting:
    """How much each timestep counts."""
    return LossWeighting(_WEIGHTINGS.get(config.weighting_scheme, "none"), config.snr_gamma)
