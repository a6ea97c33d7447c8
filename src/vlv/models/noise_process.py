"""Noise processes: how noise enters latents, and what a denoiser has to predict.

Two of them: DDPM with a beta schedule, and rectified flow. Both map levels u in [0,1) to their own
timesteps, 0 to the least noise, so that no caller needs to know which one it has.

Shapes: B batch, C latent channels, h,w latent size.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vlv.errors import ConfigError

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler


@dataclass(frozen=True)
class NoiseProcess(ABC):
    """What training and verification need of either."""

    scheduler: Any

    @property
    def steps(self) -> int:
        """Timesteps that the model was trained with."""
        return int(self.scheduler.config.num_train_timesteps)

    @property
    @abstractmethod
    def prediction_type(self) -> str:
        """What the denoiser predicts: epsilon, sample, v_prediction or flow."""

    @abstractmethod
    def timesteps(self, u: Tensor) -> Tensor:
        """Timesteps (B,) at levels u (B,) in [0,1), 0 the least noise."""

    @abstractmethod
    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratios (B,) at timesteps (B,)."""

    @abstractmethod
    def noisy(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Latents with noise (B,C,h,w) of timesteps (B,)."""

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser has to predict (B,C,h,w)."""

    @abstractmethod
    def denoised(self, noisy: Tensor, predicted: Tensor, timesteps: Tensor) -> Tensor:
        """Latents without noise (B,C,h,w), as a prediction for noisy ones says them."""


@dataclass(frozen=True)
class DDPMNoise(NoiseProcess):
    """The forward process of DDPM, whose timesteps are whole numbers."""

    scheduler: "DDPMScheduler"

    def timesteps(self, u: Tensor) -> Tensor:
        """Timesteps (B,), long, of u (B,) in [0,1)."""
        return (u * self.steps).long().clamp_max(self.steps - 1)

    @property
    def prediction_type(self) -> str:
        """What the denoiser predicts: epsilon, sample or v_prediction."""
        return str(self.scheduler.config.prediction_type)

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratios (B,) at timesteps (B,); 0 at a terminal step without signal."""
        from diffusers.training_utils import compute_snr

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
        raise _unknown(kind)

    def denoised(self, noisy: Tensor, predicted: Tensor, timesteps: Tensor) -> Tensor:
        """Latents without noise (B,C,h,w), by the scheduler's `prediction_type`."""
        kind = self.prediction_type
        if kind == "sample":
            return predicted
        alphas = self.scheduler.alphas_cumprod.to(noisy.device)[timesteps].view(-1, 1, 1, 1)
        signal, noise = alphas.sqrt().to(noisy.dtype), (1 - alphas).sqrt().to(noisy.dtype)
        if kind == "epsilon":
            return (noisy - noise * predicted) / signal
        if kind == "v_prediction":
            return signal * noisy - noise * predicted
        raise _unknown(kind)


def _unknown(kind: str) -> ConfigError:
    return ConfigError(
        f"The scheduler's prediction_type is {kind!r}; the denoising loss knows epsilon, sample "
        "and v_prediction."
    )


@dataclass(frozen=True)
class FlowNoise(NoiseProcess):
    """Rectified flow: x_sigma = (1 - sigma) x_0 + sigma epsilon, and the velocity epsilon - x_0 to
    predict (SD3, arXiv 2403.03206, section 2).

    Timesteps are sigma times the number of steps, as real numbers: those of the scheduler, which
    its static `shift` has moved towards noise. A schedule with dynamic shifting moves them when it
    draws, by the size of the picture; training takes the ones that are not moved, as diffusers'
    scripts do.
    """

    scheduler: "FlowMatchEulerDiscreteScheduler"

    @property
    def prediction_type(self) -> str:
        """The velocity of a flow."""
        return "flow"

    def timesteps(self, u: Tensor) -> Tensor:
        """Timesteps (B,), float32, of u (B,) in [0,1)."""
        index = (u * self.steps).long().clamp_max(self.steps - 1)
        sigmas = (index + 1).float() / self.steps
        config = self.scheduler.config
        if not config.use_dynamic_shifting:
            sigmas = config.shift * sigmas / (1 + (config.shift - 1) * sigmas)
        return sigmas * self.steps

    def sigmas(self, timesteps: Tensor) -> Tensor:
        """The share of noise (B,) at timesteps (B,)."""
        return timesteps.float() / self.steps

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratios (B,) at timesteps (B,): ((1 - sigma) / sigma)^2."""
        sigmas = self.sigmas(timesteps)
        return ((1 - sigmas) / sigmas).square()

    def noisy(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Latents with noise (B,C,h,w) of timesteps (B,)."""
        sigmas = self.sigmas(timesteps).to(latents.dtype).view(-1, 1, 1, 1)
        return (1 - sigmas) * latents + sigmas * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The velocity: noise less latents."""
        return noise - latents

    def denoised(self, noisy: Tensor, predicted: Tensor, timesteps: Tensor) -> Tensor:
        """Latents without noise (B,C,h,w): back along the velocity."""
        sigmas = self.sigmas(timesteps).to(noisy.dtype).view(-1, 1, 1, 1)
        return noisy - sigmas * predicted
