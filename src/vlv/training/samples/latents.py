"""Latents of pictures, computed once by a frozen VAE and kept in mapped files.

Posterior mean and deviation are stored (half precision), so that training still samples from the
posterior. `LatentCache` is of the embedded world: the file's name holds a hash of everything that
its values depend on, which are the encoder's weights and config, the kind of device and the
precision that it computes in, and the pictures' own name. `set_latents` has the cache of a set on
disk.
"""

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlv.data.world_images import WorldImages, made_once, new_array
from vlv.models.latent_codec import LatentScale, codec_of
from vlv.models.precision import Precision, mixed_precision
from vlv.training.samples.source import Batch
from vlv.world.inspector import to_pixels

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

logger = logging.getLogger(__name__)

_BATCH = 64
# Of the VAE's config, what acts after encoding; names with an underscore are the library's notes.
_AFTERWARDS = ("scaling_factor", "shift_factor")


class Latents(ABC):
    """Scaled latents of pictures, by index, from the moments that a cache holds."""

    _scale: LatentScale

    @abstractmethod
    def moments(self, index: int) -> NDArray[np.float16]:
        """Posterior mean and deviation (2, C, h, w) of a picture, not scaled."""

    def sample(self, index: int, noise: Tensor) -> Tensor:
        """Latents (C, h, w) drawn from the posterior by `noise` (C, h, w)."""
        mean, std = torch.from_numpy(self.moments(index).astype(np.float32))
        return self._scale.scaled(mean + std * noise)

    def put_into(self, draws: Batch, index: int) -> Batch:
        """`draws` of `denoising_draws` with `latents` (K, C, h, w) for their `posterior_noise`."""
        kept = {name: value for name, value in draws.items() if name != "posterior_noise"}
        latent = self.sample(index, draws["posterior_noise"])
        return {"latents": latent.expand(draws["noise"].shape), **kept}


class LatentCache(Latents):
    """Latents of scenes of the world, computed where the run computes, in its precision.

    The VAE is used when the cache is made, and not kept.
    """

    def __init__(self, vae: "AutoencoderKL", images: WorldImages, precision: Precision) -> None:
        self._scale = LatentScale.of(vae)
        from vlv.training.accelerator import computing_device  # workers of a loader do without

        device = computing_device()
        bfloat16 = mixed_precision(precision, device) == "bf16"
        name = f"{images.path.stem}-latents-{_fingerprint(vae, device, bfloat16)}.npy"
        self._path = images.path.parent / name
        shape = (len(images), *moments_shape(vae, images.images.shape[1]))
        with made_once(self._path) as missing:
            if missing:
                logger.info("encoding %d pictures, once, into %s", len(images), self._path)
                with new_array(self._path, shape, np.float16) as new:
                    _encode(vae, images, new, device, bfloat16)
        self._map()

    def _map(self) -> None:
        self._moments: NDArray[np.float16] = np.load(self._path, mmap_mode="r")

    def __getstate__(self) -> dict[str, Any]:
        """Another process maps the file itself: pickling the array would copy its contents."""
        return {name: value for name, value in self.__dict__.items() if name != "_moments"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one picture's latents."""
        _, _, channels, height, width = self._moments.shape
        return channels, height, width

    def moments(self, index: int) -> NDArray[np.float16]:
        """Read from the file."""
        return self._moments[index]

    def means(self, count: int) -> Tensor:
        """Posterior means (count, C, h, w) of the first pictures."""
        means = torch.from_numpy(self._moments[:count, 0].astype(np.float32))
        return self._scale.scaled(means)


def moments_shape(vae: "AutoencoderKL", image_size: int) -> tuple[int, int, int, int]:
    """Of one square picture: mean and deviation of C channels at h x w."""
    return 2, *codec_of(vae).latent_shape(image_size)


@torch.no_grad()
def posterior_moments(
    vae: "AutoencoderKL", pictures: NDArray[np.uint8], bfloat16: bool
) -> NDArray[np.float16]:
    """Mean and deviation (B, 2, C, h, w) of pictures as bytes (B, S, S, 3), computed where the VAE
    is.
    """
    x = to_pixels(torch.from_numpy(pictures)).to(vae.device)
    with torch.autocast(vae.device.type, dtype=torch.bfloat16, enabled=bfloat16):
        both = codec_of(vae).moments(x)
    moments: NDArray[np.float16] = both.to(torch.float16).cpu().numpy()
    return moments


def _encode(
    vae: "AutoencoderKL",
    images: WorldImages,
    moments: NDArray[np.float16],
    device: torch.device,
    bfloat16: bool,
) -> None:
    home = vae.device
    vae.to(device)
    for start in range(0, len(images), _BATCH):
        both = posterior_moments(vae, images.images[start : start + _BATCH].copy(), bfloat16)
        moments[start : start + len(both)] = both
    vae.to(home)


def _fingerprint(vae: "AutoencoderKL", device: torch.device, bfloat16: bool) -> str:
    return encoder_hash(vae, device.type, str(vae.dtype), "bf16" if bfloat16 else "no")


def encoder_hash(vae: "AutoencoderKL", *how: str) -> str:
    """Of the VAE's encoder, its weights and config, and of how it is used: 12 digits."""
    config = {
        name: value
        for name, value in vae.config.items()
        if not name.startswith("_") and name not in _AFTERWARDS
    }
    described = [config, *how]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    encoding = vae.encoder.state_dict(prefix="encoder.")
    if (quant_conv := getattr(vae, "quant_conv", None)) is not None:
        encoding |= quant_conv.state_dict(prefix="quant_conv.")
    for name, value in sorted(encoding.items()):
        # bfloat16, which numpy does not know, is exact in float32.
        digest.update(
            f"{name} {value.dtype}".encode() + value.detach().float().cpu().numpy().tobytes()
        )
    return digest.hexdigest()[:12]
