"""Latents of a set of pictures, computed once by a frozen VAE and kept in a mapped file.

Posterior mean and deviation are stored (half precision), so that training still samples from the
posterior. The file's name holds a hash of the encoder's weights: another encoder, another file.
"""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from vlv.data.world_images import WorldImages, made_once
from vlv.models.precision import computes_bfloat16
from vlv.training.stage import Batch
from vlv.training.stages.common import pixels

_BATCH = 64


class LatentCache:
    """Scaled latents of `images`, by index."""

    def __init__(self, vae: AutoencoderKL, images: WorldImages) -> None:
        self._scale = float(vae.config.scaling_factor)
        name = f"{images.path.stem}-latents-{_fingerprint(vae)}.npy"
        path = images.path.parent / name
        with made_once(path) as missing:
            if missing:
                _encode(vae, images, path)
        self._moments: NDArray[np.float16] = np.load(path, mmap_mode="r")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one picture's latents."""
        _, _, channels, height, width = self._moments.shape
        return channels, height, width

    def sample(self, index: int, noise: Tensor) -> Tensor:
        """Latents (C, h, w) drawn from the posterior by `noise` (C, h, w)."""
        mean, std = torch.from_numpy(self._moments[index].astype(np.float32))
        return (mean + std * noise) * self._scale

    def put_into(self, draws: Batch, index: int) -> Batch:
        """`draws` of `denoising_draws` with `latents` (K, C, h, w) for their `posterior_noise`."""
        kept = {name: value for name, value in draws.items() if name != "posterior_noise"}
        latent = self.sample(index, draws["posterior_noise"])
        return {"latents": latent.expand(draws["noise"].shape), **kept}

    def means(self, count: int) -> Tensor:
        """Posterior means (count, C, h, w) of the first pictures."""
        return torch.from_numpy(self._moments[:count, 0].astype(np.float32)) * self._scale


@torch.no_grad()
def _encode(vae: AutoencoderKL, images: WorldImages, path: Path) -> None:
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    moments = None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    home = vae.device
    vae.to(device)
    for start in range(0, len(images), _BATCH):
        x = pixels(torch.from_numpy(images.images[start : start + _BATCH].copy()))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=computes_bfloat16(device)):
            posterior = vae.encode(x.to(device)).latent_dist
        both = torch.stack([posterior.mean, posterior.std], dim=1).to(torch.float16).cpu().numpy()
        if moments is None:
            moments = np.lib.format.open_memmap(
                unfinished, mode="w+", dtype=np.float16, shape=(len(images), *both.shape[1:])
            )
        moments[start : start + len(both)] = both
    vae.to(home)
    assert moments is not None
    moments.flush()
    del moments
    os.replace(unfinished, path)


def _fingerprint(vae: AutoencoderKL) -> str:
    digest = hashlib.sha256()
    encoding = {
        **vae.encoder.state_dict(prefix="encoder."),
        **vae.quant_conv.state_dict(prefix="quant_conv."),
    }
    for name, value in sorted(encoding.items()):
        digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
