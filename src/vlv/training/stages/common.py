"""What the builders of several stages share."""

from pydantic import Field

from vlv.errors import ConfigError
from vlv.models.config import VLVConfig
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.training.config import TrainingConfig
from vlv.training.samples.draws import DrawSettings


class DenoisingConfig(TrainingConfig):
    """Fields of every stage with a denoising loss.

    `timestep_bias`: how much more often noisy timesteps are drawn; see `denoising_draws`.
    """

    timestep_bias: float = Field(1.0, ge=1.0)


def model_config(config: TrainingConfig) -> VLVConfig:
    """The sizes of the model, from the file that `model` names."""
    if config.model is None:
        raise ConfigError("this stage builds a network: set model to a model config (YAML)")
    return VLVConfig.from_yaml(config.model)


def draw_settings(
    config: DenoisingConfig, decoder: DiffusionDecoder, count: int = 1
) -> DrawSettings:
    """How noise is drawn for pictures that the decoder denoises, `count` times for each."""
    return DrawSettings(decoder.latent_shape, config.seed, config.timestep_bias, count)
