"""Building stage `vae`: the stand-in for Stable Diffusion's image auto-encoder."""

from pathlib import Path

import numpy as np
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from pydantic import Field, model_validator

from vlv.checkpoints.components import load_network
from vlv.models.latent_codec import codec_of
from vlv.models.precision import use_fast_attention
from vlv.training.accelerator import computing_device
from vlv.training.config import TrainingConfig
from vlv.training.model_names import component_folder
from vlv.training.objectives.vae import BATCH, VAEObjective
from vlv.training.provenance import record_of
from vlv.training.samples.world import (
    PosteriorSamples,
    validation_images,
    world_data,
    world_images,
)
from vlv.training.stage import Stage
from vlv.training.stages.common import model_config, warn_of_unread_model

NAME = "vae"


class VAEConfig(TrainingConfig):
    """Weights of the two terms beside the squared error, per pixel value.

    `initial_vae` names the folder of a finished VAE that is trained further. With `decoder_of`
    only its decoder is: its latents stay what they are, so whatever was learned on them stays
    valid. Otherwise the latents of `normalisation_count` pictures, in whole batches, are
    normalised at the end.
    """

    initial_vae: Path | None = None
    decoder_of: Path | None = None
    l1_weight: float = Field(0.1, ge=0)
    kl_weight: float = Field(1e-7, ge=0)
    normalisation_count: int = Field(2048, gt=0)

    @model_validator(mode="after")
    def _one_origin(self) -> "VAEConfig":
        if self.initial_vae is not None and self.decoder_of is not None:
            raise ValueError("set initial_vae or decoder_of, not both")
        return self


def build(config: VAEConfig) -> Stage:
    """The stage with its network and its pictures."""
    images = world_images(world_data(config))
    held_out = validation_images(config)
    before = None
    start = config.decoder_of or config.initial_vae
    if start is None:
        vae = AutoencoderKL(**model_config(config).vae)
    else:
        warn_of_unread_model(config, start)
        folder = component_folder(start, "vae")
        vae = load_network(AutoencoderKL, folder)
        before = record_of(folder.parent, NAME)
    normalised = -(-config.normalisation_count // BATCH) * BATCH
    objective = make_objective(
        config,
        vae,
        held_out.images,
        images.images[:normalised] if config.decoder_of is None else None,
    )
    use_fast_attention(objective, computing_device())
    samples = PosteriorSamples(
        images, codec_of(vae).latent_shape(vae.config.sample_size), config.seed
    )
    return Stage(NAME, config, objective, samples, before)


def make_objective(
    config: VAEConfig,
    vae: AutoencoderKL,
    held_out: NDArray[np.uint8] | None = None,
    normalised_on: NDArray[np.uint8] | None = None,
) -> VAEObjective:
    """The objective on a given VAE."""
    return VAEObjective(
        vae,
        held_out,
        normalised_on,
        l1_weight=config.l1_weight,
        kl_weight=config.kl_weight,
        decoder_only=config.decoder_of is not None,
    )
