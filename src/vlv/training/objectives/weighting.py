"""Weights of the denoising loss at each timestep. Knows a noise process; knows no network.

Every weight is a function of the signal-to-noise ratio, so that it means the same for DDPM and for
flows: SNR is alpha^2 / sigma^2 of DDPM, ((1 - sigma) / sigma)^2 of a flow.

Shapes: B samples.
"""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vlv.errors import ConfigError
from vlv.models.noise_process import NoiseProcess


@dataclass(frozen=True)
class LossWeighting:
    """What the squared error of a sample is multiplied by; 1 by default.

    scheme: SD3's weights, as diffusers' `compute_loss_weighting_for_sd3` has them, at the sigma of
    a flow with the same SNR. snr_gamma: min-SNR-gamma (arXiv 2303.09556), the weight min(SNR,
    gamma) on the error of the sample, which is another one on epsilon and on v.
    """

    scheme: Literal["none", "sigma_sqrt", "cosmap"] = "none"
    snr_gamma: float | None = None

    @property
    def is_plain(self) -> bool:
        """Whether every weight is 1."""
        return self.scheme == "none" and self.snr_gamma is None

    def weights(self, process: NoiseProcess, timesteps: Tensor) -> Tensor:
        """Weights (B,) at timesteps (B,), in float32."""
        snr = process.snr(timesteps).float()
        sigma = 1 / (1 + snr.sqrt())
        if self.scheme == "sigma_sqrt":
            weights = sigma**-2.0
        elif self.scheme == "cosmap":
            weights = 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2))
        else:
            weights = snr.new_ones(snr.shape)
        if self.snr_gamma is not None:
            weights = weights * _min_snr(snr, self.snr_gamma, process.prediction_type)
        return weights


def _min_snr(snr: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Weights for what is predicted: the error of the sample is that of epsilon over the SNR, that
    of v over the SNR plus 1.
    """
    capped = snr.clamp(max=gamma)
    if prediction_type == "epsilon":
        # min(SNR, gamma) / SNR, where the SNR may be 0.
        return (gamma / snr).clamp(max=1.0)
    if prediction_type == "sample":
        return capped
    if prediction_type == "v_prediction":
        return capped / (snr + 1)
    raise ConfigError(
        f"snr_gamma: a scheduler whose prediction_type is {prediction_type!r} has no min-SNR "
        "weight; it is known for epsilon, sample and v_prediction"
    )
