"""The diffusion decoder: conditioning c -> image, and the denoising loss (paper, section 3.1).

Knows VAE, U-Net and noise schedules; knows nothing of text, captions or the encoder.

Shapes: B batch, C latent channels, h,w latent size, H,W image size (factor 8 for 4 VAE blocks),
Q,d length and width of c.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    SchedulerMixin,
    UNet2DConditionModel,
)
from PIL import Image
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from vlv.errors import ConfigError

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

SAMPLERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
}


class DiffusionDecoder(nn.Module):
    """VAE, U-Net and noise scheduler of a latent diffusion model conditioned on c."""

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        scheduler: DDPMScheduler,
        image_size: int,
    ) -> None:
        super().__init__()
        self.vae = vae
        self.unet = unet
        self.scheduler = scheduler
        self.image_size = image_size

    @classmethod
    def from_config(
        cls,
        vae: dict[str, Any],
        unet: dict[str, Any],
        scheduler: dict[str, Any],
        image_size: int,
    ) -> "DiffusionDecoder":
        """Build with fresh weights from the libraries' own arguments."""
        return cls(
            AutoencoderKL(**vae),
            UNet2DConditionModel(**unet),
            DDPMScheduler(**scheduler),
            image_size,
        )

    def encode_images(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Scaled latents (B,C,h,w) of pixels (B,3,H,W) in [-1,1].

        noise (B,C,h,w), standard normal, draws from the posterior; None takes its mean.
        """
        posterior = self.vae.encode(pixels).latent_dist
        latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise
        return latents * self.vae.config.scaling_factor

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Pixels (B,3,H,W), nominally in [-1,1], of scaled latents (B,C,h,w)."""
        pixels: Tensor = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return pixels

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the U-Net has to predict, by the scheduler's `prediction_type`."""
        kind = self.scheduler.config.prediction_type
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

    def denoising_loss(
        self, latents: Tensor, c: Tensor, noise: Tensor, timesteps: Tensor
    ) -> Tensor:
        """Mean squared error of each sample (B,) in float32: the paper's stage-1 loss.

        latents, noise (B,C,h,w); c (B,Q,d); timesteps (B,) long.
        """
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        predicted = self.unet(noisy, timesteps, encoder_hidden_states=c).sample
        error = predicted.float() - self.target(latents, noise, timesteps).float()
        return error.square().flatten(1).mean(1)

    def sampler(self, name: str) -> SchedulerMixin:
        """A diffusers sampler by short name or class name, on this decoder's noise schedule."""
        found = getattr(diffusers, SAMPLERS.get(name, name), None)
        if not (isinstance(found, type) and issubclass(found, SchedulerMixin)):
            raise ConfigError(
                f"There is no scheduler {name!r}; use one of {', '.join(SAMPLERS)} or the name "
                "of a diffusers scheduler class."
            )
        kind: Any = found
        sampler: SchedulerMixin = kind.from_config(self.scheduler.config)
        return sampler

    @torch.no_grad()
    def generate(
        self,
        c: Tensor,
        *,
        uncond: Tensor | None = None,
        guidance_scale: float = 2.0,
        num_inference_steps: int = 50,
        seeds: Sequence[int] | None = None,
        scheduler: str = "ddim",
    ) -> list[Image.Image]:
        """Draw one picture for each c (B,Q,d) with the Stable Diffusion pipeline.

        uncond (1,Q,d) is T("")[:, :Q]; it is needed when guidance_scale > 1, and a scale of 1
        means no guidance. Each seed gives its picture its own noise, so that a picture does not
        depend on the others of its batch; None draws from torch's global generator.
        """
        batch = c.shape[0]
        if guidance_scale < 1:
            raise ConfigError(f"guidance_scale must be at least 1, got {guidance_scale}.")
        trained = int(self.scheduler.config.num_train_timesteps)
        if not 1 <= num_inference_steps <= trained:
            raise ConfigError(
                f"num_inference_steps must be 1 to {trained}, the timesteps that the model was "
                f"trained with, not {num_inference_steps}."
            )
        sampler = self.sampler(scheduler)
        _check_steps(sampler, scheduler, num_inference_steps, trained)
        negative = None
        if guidance_scale > 1:
            if uncond is None:
                raise ConfigError(
                    f"guidance_scale {guidance_scale} needs the unconditional context; pass uncond."
                )
            negative = uncond.expand(batch, -1, -1)
        if seeds is not None and len(seeds) != batch:
            raise ConfigError(f"Got {len(seeds)} seeds for {batch} pictures; give one for each.")
        if seeds is not None and not all(0 <= int(seed) < 2**63 for seed in seeds):
            raise ConfigError(f"Seeds must be 0 to 2**63 - 1, got {list(seeds)}.")
        pipeline = _pipeline_class()(
            vae=self.vae,
            text_encoder=None,
            tokenizer=None,
            unet=self.unet,
            scheduler=sampler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        generators = None
        if seeds is not None:
            generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        return pipeline(
            prompt_embeds=c,
            negative_prompt_embeds=negative,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            height=self.image_size,
            width=self.image_size,
            generator=generators,
            output_type="pil",
        ).images


def _check_steps(sampler: Any, name: str, steps: int, trained: int) -> None:
    """Raise ConfigError where a sampler would step beyond the timesteps of the noise schedule.

    Schedules with an offset, as Stable Diffusion's, leave no room for as many steps as there are.
    """
    sampler.set_timesteps(steps)
    sigmas = torch.as_tensor(getattr(sampler, "sigmas", 0.0))
    first, last = sampler.timesteps.max(), sampler.timesteps.min()
    stands_still = steps > 1 and first == last
    if not (first < trained and sigmas.isfinite().all()) or stands_still:
        raise ConfigError(
            f"the scheduler {name} cannot take {steps} steps on this model's noise schedule; "
            "use a smaller num_inference_steps"
        )


def _pipeline_class() -> type["StableDiffusionPipeline"]:
    """Importing the pipeline makes transformers warn of image processors that it falls back to
    without torchvision; nothing here uses them, so the import is kept quiet.
    """
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        from diffusers import StableDiffusionPipeline
    finally:
        transformers_logging.set_verbosity(verbosity)
    return StableDiffusionPipeline
