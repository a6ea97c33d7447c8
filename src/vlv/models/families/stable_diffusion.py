"""Stable Diffusion 1 and 2: latents of an `AutoencoderKL`, DDPM noise, and a U-Net.

Its text tower is CLIP's text encoder (`vlv.models.text_tower`), with one slot.

Shapes: B batch, C latent channels, h,w latent size, H,W image size (factor 8 for 4 VAE blocks).
"""

from dataclasses import dataclass

from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from torch import Tensor

from vlv.errors import ConfigError
from vlv.models.conditioning import Conditioning

# The pipeline of diffusers that draws with these parts, as model_index.json calls it.
PIPELINE = "StableDiffusionPipeline"


@dataclass(frozen=True)
class LatentCodec:
    """Pixels in [-1,1] to scaled latents and back."""

    vae: AutoencoderKL

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Scaled latents (B,C,h,w) of pixels (B,3,H,W) in [-1,1].

        noise (B,C,h,w), standard normal, draws from the posterior; None takes its mean.
        """
        posterior = self.vae.encode(pixels).latent_dist
        latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise
        return latents * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B,3,H,W), nominally in [-1,1], of scaled latents (B,C,h,w)."""
        pixels: Tensor = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return pixels

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """(C,h,w) of the latents of square images."""
        config = self.vae.config
        side = int(image_size) // int(2 ** (len(config.block_out_channels) - 1))
        return int(config.latent_channels), side, side


@dataclass(frozen=True)
class DDPMNoise:
    """The forward process of DDPM, and what the denoiser has to predict."""

    scheduler: DDPMScheduler

    @property
    def steps(self) -> int:
        """Timesteps that the model was trained with."""
        return int(self.scheduler.config.num_train_timesteps)

    def timesteps(self, u: Tensor) -> Tensor:
        """Timesteps (B,), long, of u (B,) in [0,1)."""
        return (u * self.steps).long().clamp_max(self.steps - 1)

    @property
    def prediction_type(self) -> str:
        """What the denoiser predicts: epsilon, sample or v_prediction."""
        return str(self.scheduler.config.prediction_type)

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratios (B,) at timesteps (B,); 0 at a terminal step without signal."""
        return compute_snr(self.scheduler, timesteps)

    def noisy(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Latents with noise (B,C,h,w) of timesteps (B,)."""
        mixed: Tensor = self.scheduler.add_noise(latents, noise, timesteps)
        return mixed

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser has to predict, by the scheduler's `prediction_type`."""
        kind = self.prediction_type
        if kind == "epsilon":
            return noise
        if kind == "sample":
            return latents
        if kind == "v_prediction":
            return self.scheduler.get_velocity(latents, noise, timesteps)
        raise ConfigError(
            f"The scheduler's prediction_type is {kind!r}; the denoising loss knows epsilon, "
            "sample and v_prediction."
        )


@dataclass(frozen=True)
class UNetDenoiser:
    """The U-Net's prediction for noisy latents under a conditioning."""

    unet: UNet2DConditionModel

    def __call__(self, noisy: Tensor, timesteps: Tensor, c: Conditioning) -> Tensor:
        """Prediction (B,C,h,w) for noisy latents (B,C,h,w) at timesteps (B,); cross-attention sees
        the tokens that the mask of c names, or all.
        """
        predicted: Tensor = self.unet(
            noisy,
            timesteps,
            encoder_hidden_states=c.tokens,
            encoder_attention_mask=c.mask,
        ).sample
        return predicted
