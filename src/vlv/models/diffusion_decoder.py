"""The diffusion decoder: conditioning c -> image, and the denoising loss (paper, section 3.1).

Knows VAE, denoiser and noise schedules; knows nothing of text, captions or the encoder. What
differs among text-to-image models is in their family (`vlv.models.families`).

Shapes: B batch, C latent channels, h,w latent size, H,W image size, Q length of c.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from typing import Any

import diffusers
import torch
from diffusers import ModelMixin, SchedulerMixin
from PIL import Image
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from vlv.errors import ConfigError
from vlv.models.conditioning import Conditioning, LatePrompt
from vlv.models.config import NUM_INFERENCE_STEPS, FamilyName
from vlv.models.families import load_family
from vlv.models.families.family import SAMPLER_OPTIONS, Family
from vlv.models.latent_codec import LatentCodec, codec_of
from vlv.models.noise_process import NoiseProcess
from vlv.models.seeds import check_seeds


class DiffusionDecoder(nn.Module):
    """VAE, denoiser and noise scheduler of a latent diffusion model conditioned on c.

    The denoiser has the name that diffusers gives it: `unet`, or `transformer`.
    """

    def __init__(
        self,
        vae: ModelMixin,
        denoiser: ModelMixin,
        scheduler: SchedulerMixin,
        image_size: int,
        family: FamilyName = "stable-diffusion",
    ) -> None:
        super().__init__()
        self.family: Family = load_family(family)
        self.vae = vae
        config = vae.config
        if config.get("latents_mean") is not None:
            raise ConfigError(
                "The VAE's config has latents_mean: latents with a mean and a deviation for each "
                "channel are not supported; use a model whose VAE has one scaling_factor."
            )
        missing = {k: v for k, v in self.family.vae_defaults.items() if config.get(k) is None}
        if missing:
            vae.register_to_config(**missing)
        self.add_module(self.family.record.denoiser, denoiser)
        self.scheduler = scheduler
        self.image_size = image_size

    @classmethod
    def from_config(
        cls,
        vae: dict[str, Any],
        denoiser: dict[str, Any],
        scheduler: dict[str, Any],
        image_size: int,
        family: FamilyName = "stable-diffusion",
    ) -> "DiffusionDecoder":
        """Build with fresh weights from the libraries' own arguments."""
        known: Any = load_family(family)
        return cls(
            known.vae_class(**vae),
            known.denoiser_class(**denoiser),
            known.scheduler_class(**scheduler),
            image_size,
            family,
        )

    @property
    def denoiser(self) -> Any:
        """The network that removes noise."""
        return getattr(self, self.family.record.denoiser)

    @property
    def codec(self) -> LatentCodec:
        """Pixels to latents and back."""
        return codec_of(self.vae)

    @property
    def noise_process(self) -> NoiseProcess:
        """Latents to noisy latents, and what is to be predicted."""
        return self.family.noise_process(self.scheduler)

    def predict(self, noisy: Tensor, timesteps: Tensor, c: Conditioning) -> Tensor:
        """The denoiser's prediction (B,C,h,w) for noisy latents (B,C,h,w) at timesteps (B,)."""
        return self.family.denoise(self.denoiser, noisy, timesteps, c, self.image_size)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C,h,w) of the latents of an image."""
        return self.codec.latent_shape(self.image_size)

    def encode_images(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Scaled latents (B,C,h,w) of pixels (B,3,H,W) in [-1,1].

        noise (B,C,h,w), standard normal, draws from the posterior; None takes its mean.
        """
        return self.codec.encode(pixels, noise)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Pixels (B,3,H,W), nominally in [-1,1], of scaled latents (B,C,h,w)."""
        return self.codec.decode(latents)

    def denoising_loss(
        self, latents: Tensor, c: Conditioning, noise: Tensor, timesteps: Tensor
    ) -> Tensor:
        """Mean squared error of each sample (B,) in float32: the paper's stage-1 loss.

        latents, noise (B,C,h,w); c of B samples; timesteps (B,) of the noise process.
        """
        noisy = self.noise_process.noisy(latents, noise, timesteps)
        predicted = self.predict(noisy, timesteps, c)
        target = self.noise_process.target(latents, noise, timesteps)
        return (predicted.float() - target.float()).square().flatten(1).mean(1)

    def sampler(self, name: str) -> SchedulerMixin:
        """A diffusers sampler by short name or class name, on this decoder's noise schedule."""
        samplers = self.family.samplers
        found = getattr(diffusers, samplers.get(name, name), None)
        if not (isinstance(found, type) and issubclass(found, SchedulerMixin)):
            raise ConfigError(
                f"There is no scheduler {name!r}; use one of {', '.join(samplers)} or the name "
                "of a diffusers scheduler class."
            )
        kind: Any = found
        # Values that a noise schedule has by default are its values too. diffusers would take the
        # sampler's own for them, until the schedule is saved, and pictures would change then.
        schedule = {k: v for k, v in self.scheduler.config.items() if k != "_use_default_values"}
        sampler: SchedulerMixin = kind.from_config(
            schedule,
            **self._sampler_options(kind),
            **SAMPLER_OPTIONS.get(name, {}),
        )
        return sampler

    def _sampler_options(self, kind: Any) -> dict[str, Any]:
        """What makes a sampler of diffusers follow this decoder's kind of noise, beside its config.

        Raises ConfigError for one that cannot: it would draw nothing but noise.
        """
        of_flows = kind.__name__.startswith("FlowMatch")
        trained_on_flow = self.noise_process.prediction_type == "flow"
        if of_flows and not trained_on_flow:
            raise ConfigError(
                f"The scheduler {kind.__name__} is of flows, and this model was trained on DDPM "
                f"noise; use one of {', '.join(self.family.samplers)}."
            )
        if of_flows or not trained_on_flow:
            return {}
        if "use_flow_sigmas" not in signature(kind.__init__).parameters:
            raise ConfigError(
                f"The scheduler {kind.__name__} is of DDPM noise, and this model was trained on a "
                f"flow; use one of {', '.join(self.family.samplers)}."
            )
        return {
            "use_flow_sigmas": True,
            "prediction_type": "flow_prediction",
            "flow_shift": self.scheduler.config.shift,
        }

    @torch.no_grad()
    def generate(
        self,
        c: Conditioning,
        *,
        uncond: Conditioning | None = None,
        guidance_scale: float = 2.0,
        num_inference_steps: int = NUM_INFERENCE_STEPS,
        seeds: Sequence[int] | None = None,
        scheduler: str | None = None,
        late: LatePrompt | None = None,
    ) -> list[Image.Image]:
        """Draw one image for each of B samples with the pipeline of the family.

        uncond, one sample, is T("")[:, :Q]; it is needed when guidance_scale > 1, and a scale of 1
        means no guidance. A denoiser that reads the scale itself needs none. Each seed gives its
        image its own noise, so that an image does not depend on the others of its batch; None draws
        from torch's global generator. A scheduler of None is the family's. `late` takes the place
        of c in the last steps.
        """
        batch = len(c)
        if not 1 <= guidance_scale < math.inf:  # NaN is refused too
            raise ConfigError(
                f"guidance_scale must be a number of at least 1, not {guidance_scale}."
            )
        if seeds is not None:
            check_seeds(seeds, batch)
        sampler = self._sampler_of(num_inference_steps, scheduler or self.family.default_sampler)
        prompt: dict[str, Any] = dict(self.family.embeds(self.denoiser, c))
        if guidance_scale > 1 and self.family.record.negative_prompt:
            if uncond is None:
                raise ConfigError(
                    f"guidance_scale {guidance_scale} needs the unconditional context; pass uncond."
                )
            empty = self.family.embeds(self.denoiser, uncond.repeat(batch))
            prompt |= {f"negative_{name}": value for name, value in empty.items()}
        if late is not None:
            prompt["callback_on_step_end"] = self._change_of_prompt(late, guidance_scale > 1)
            prompt["callback_on_step_end_tensor_inputs"] = ["prompt_embeds"]
        generators = None
        if seeds is not None:
            generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
            if "generator" in signature(sampler.step).parameters:
                # The pipelines of SD 3 and FLUX.1 leave it out, and noise would be torch's global.
                sampler.step = partial(sampler.step, generator=generators)
        images: list[Image.Image] = self._pipeline(sampler)(
            **prompt,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            height=self.image_size,
            width=self.image_size,
            generator=generators,
            output_type="pil",
            **self.family.pipeline_arguments(),
        ).images
        return images

    def _change_of_prompt(
        self, late: LatePrompt, guided: bool
    ) -> Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]:
        """What the pipeline calls after each step: it gives the prompt of the steps that follow."""
        if not self.family.takes_late_prompts:
            raise ConfigError(
                f"pictures of the family {self.family.name} cannot change their prompt between "
                "steps; leave out the captions."
            )
        parts = [late.uncond.repeat(len(late.c)), late.c] if guided else [late.c]
        embeds = torch.cat([one.tokens for one in parts])
        first = self.noise_process.steps * (1 - late.start)

        def after_step(pipeline: Any, step: int, *_: Any) -> dict[str, Any]:
            following = pipeline.scheduler.timesteps[step + 1 : step + 2]
            return {"prompt_embeds": embeds} if (following < first).any() else {}

        return after_step

    def _sampler_of(self, steps: int, name: str) -> SchedulerMixin:
        """The sampler for so many steps. Raises ConfigError where it cannot take them."""
        trained = self.noise_process.steps
        if not 1 <= steps <= trained:
            raise ConfigError(
                f"num_inference_steps must be 1 to {trained}, the timesteps that the model was "
                f"trained with, not {steps}."
            )
        sampler = self.sampler(name)
        if self.noise_process.prediction_type != "flow":  # which can start at its last timestep
            _check_steps(sampler, name, steps, trained)
        return sampler

    def _pipeline(self, sampler: SchedulerMixin) -> Any:
        """The family's pipeline of diffusers, without text encoders: it is given conditionings."""
        record = self.family.record
        pipeline = _pipeline_class(record.pipeline)(
            vae=self.vae,
            scheduler=sampler,
            **{record.denoiser: self.denoiser},
            **self.family.pipeline_parts(),
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


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


def _pipeline_class(name: str) -> Any:
    """Importing the pipeline makes transformers warn of image processors that it falls back to
    without torchvision; nothing here uses them, so the import is kept quiet.
    """
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        return getattr(diffusers, name)
    finally:
        transformers_logging.set_verbosity(verbosity)
