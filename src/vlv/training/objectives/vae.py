"""Stage `vae`: the stand-in for Stable Diffusion's image auto-encoder. Knows only pictures."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vlv.checkpoints.components import save_network
from vlv.training.objectives.objective import Objective, picture_rows
from vlv.training.samples.source import Batch
from vlv.world.inspector import to_pixels

# Pictures that are encoded at once, outside of the loop.
BATCH = 64


class VAEObjective(Objective):
    """Squared and absolute error of the reconstruction, and a slight pull to N(0, 1).

    decoder_only: the latents stay what they are. held_out: bytes (N,S,S,3) to validate on.
    normalised_on: bytes of the training pictures over which the trained VAE's latents get mean 0
    and deviation 1.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        held_out: NDArray[np.uint8] | None = None,
        normalised_on: NDArray[np.uint8] | None = None,
        *,
        l1_weight: float,
        kl_weight: float,
        decoder_only: bool = False,
    ) -> None:
        super().__init__()
        self.vae = vae
        if decoder_only:
            self.vae.encoder.requires_grad_(False)
            self.vae.quant_conv.requires_grad_(False)
        self._l1_weight = l1_weight
        self._kl_weight = kl_weight
        self._held_out = held_out
        self._normalised_on = normalised_on

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        x = to_pixels(batch["image"])
        posterior = self.vae.encode(x).latent_dist
        decoded = self.vae.decode(posterior.mean + posterior.std * batch["noise"]).sample.float()
        squared, absolute = F.mse_loss(decoded, x), F.l1_loss(decoded, x)
        kl = posterior.kl().mean()
        loss = squared + self._l1_weight * absolute + self._kl_weight * kl
        return loss, {"mse": squared.detach(), "kl": kl.detach()}

    @property
    def held_out(self) -> NDArray[np.uint8]:
        """Pictures to validate on."""
        assert self._held_out is not None  # what is counted only is never validated
        return self._held_out

    def validate(self) -> dict[str, float]:
        errors = []
        for start in range(0, len(self.held_out), BATCH):
            x = self._pixels(self.held_out[start : start + BATCH])
            errors.append((self._reconstructed(x) - x).square().flatten(1).mean(1))
        # PSNR of pixel values in [-1, 1]: the peak is 2.
        psnr = 10 * torch.log10(4.0 / torch.cat(errors))
        return {"psnr": float(psnr.mean())}

    def picture(self) -> Image.Image:
        originals = self.held_out[:8]
        decoded = self._reconstructed(self._pixels(originals))
        drawn = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return picture_rows([list(originals), list(drawn)])

    def _pixels(self, images: NDArray[np.uint8]) -> Tensor:
        """Bytes (B,S,S,3) -> (B,3,S,S) in [-1, 1], where the VAE is."""
        return to_pixels(torch.from_numpy(images.copy())).to(self.device)

    def _reconstructed(self, x: Tensor) -> Tensor:
        decoded: Tensor = self.vae.decode(self.vae.encode(x).latent_dist.mean).sample
        return decoded.clamp(-1, 1)

    def finish(self) -> None:
        """Give every latent channel mean 0 and deviation 1 over training pictures."""
        if self._normalised_on is None:
            return
        means = [
            self.vae.encode(self._pixels(self._normalised_on[at : at + BATCH])).latent_dist.mean
            for at in range(0, len(self._normalised_on), BATCH)
        ]
        latents = torch.cat(means).transpose(0, 1).flatten(1)
        fold_normalisation(self.vae, latents.mean(1), latents.std(1))
        # The library's default belongs to Stable Diffusion's latents, which deviate by 5.5.
        self.vae.register_to_config(scaling_factor=1.0)

    def export(self, folder: Path) -> None:
        save_network(self.vae, folder / "vae")


@torch.no_grad()
def fold_normalisation(vae: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Rewrite the quant convolutions so that latents z become (z - mean) / std, per channel.

    The decoder undoes it, so reconstructions do not change; pipelines that know only the config's
    one `scaling_factor` then need no per-channel statistics.
    """
    channels = len(mean)
    to_moments, from_latent = vae.quant_conv, vae.post_quant_conv
    shift = torch.cat([mean, torch.zeros_like(mean)])
    scale = torch.cat([std, torch.ones_like(std)])
    to_moments.weight.div_(scale[:, None, None, None])
    to_moments.bias.sub_(shift).div_(scale)
    to_moments.bias[channels:].sub_(2 * std.log())
    from_latent.bias.add_(from_latent.weight[:, :, 0, 0] @ mean)
    from_latent.weight.mul_(std[None, :, None, None])
