"""Stage `vae`: the stand-in for Stable Diffusion's image auto-encoder. Knows only pictures."""

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from vlv.checkpoints.components import load_network, save_network
from vlv.models.attention import use_fast_attention
from vlv.training.accelerator import computing_device
from vlv.training.config import TrainingConfig
from vlv.training.model_names import component_folder
from vlv.training.provenance import record_of
from vlv.training.samples.data_order import generator
from vlv.training.stage import Batch, Stage
from vlv.training.stages.common import (
    model_config,
    picture_rows,
    pixels,
    training_images,
    validation_images,
)


class VAEConfig(TrainingConfig):
    """Weights of the two terms beside the squared error, per pixel value.

    `initial_vae` names the folder of a finished VAE that is trained further. With `decoder_of`
    only its decoder is: its latents stay what they are, so whatever was learned on them stays
    valid.
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


class VAEStage(Stage):
    """Squared and absolute error of the reconstruction, and a slight pull to N(0, 1)."""

    name = "vae"

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config: VAEConfig = config
        self.data = training_images(config)
        self.held_out = validation_images(config)
        start = config.decoder_of or config.initial_vae
        if start is None:
            self.vae = AutoencoderKL(**model_config(config).vae)
        else:
            folder = component_folder(start, "vae")
            self.vae = load_network(AutoencoderKL, folder)
            self.before = record_of(folder.parent, self.name)
        if config.decoder_of is not None:
            self.vae.encoder.requires_grad_(False)
            self.vae.quant_conv.requires_grad_(False)
        use_fast_attention(self.vae, computing_device())

    @property
    def size(self) -> int:
        return len(self.data)

    def item(self, position: int, index: int) -> Batch:
        latent = _latent_shape(self.vae)
        noise = torch.randn(latent, generator=generator(self.config.seed, position, "vae"))
        return {"image": torch.from_numpy(self.data.images[index].copy()), "noise": noise}

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        x = pixels(batch["image"])
        posterior = self.vae.encode(x).latent_dist
        decoded = self.vae.decode(posterior.mean + posterior.std * batch["noise"]).sample.float()
        squared, absolute = F.mse_loss(decoded, x), F.l1_loss(decoded, x)
        kl = posterior.kl().mean()
        loss = squared + self.config.l1_weight * absolute + self.config.kl_weight * kl
        return loss, {"mse": squared.detach(), "kl": kl.detach()}

    def validate(self) -> dict[str, float]:
        errors = []
        for start in range(0, len(self.held_out), 64):
            x = self._held_out_pixels(start, start + 64)
            decoded = self.vae.decode(self.vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
            errors.append((decoded - x).square().flatten(1).mean(1))
        # PSNR of pixel values in [-1, 1]: the peak is 2.
        psnr = 10 * torch.log10(4.0 / torch.cat(errors))
        return {"psnr": float(psnr.mean())}

    def _held_out_pixels(self, start: int, stop: int) -> Tensor:
        return pixels(torch.from_numpy(self.held_out.images[start:stop].copy())).to(self.device)

    def picture(self) -> Image.Image:
        x = self._held_out_pixels(0, 8)
        decoded = self.vae.decode(self.vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        drawn = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return picture_rows([list(self.held_out.images[:8]), list(drawn)])

    def finish(self) -> None:
        """Give every latent channel mean 0 and deviation 1 over training pictures."""
        if self.config.decoder_of is not None:
            return
        count = min(self.config.normalisation_count, len(self.data))
        means = [
            self.vae.encode(
                pixels(torch.from_numpy(self.data.images[at : at + 64].copy())).to(self.device)
            ).latent_dist.mean
            for at in range(0, count, 64)
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


def _latent_shape(vae: AutoencoderKL) -> tuple[int, int, int]:
    side = int(vae.config.sample_size) // 2 ** (len(vae.config.block_out_channels) - 1)
    return int(vae.config.latent_channels), side, side
