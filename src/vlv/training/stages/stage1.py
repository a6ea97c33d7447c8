"""Stage 1: vision-language-vision auto-encoding, from images alone (paper, section 3.1).

A frozen text-to-image model teaches the encoder: whatever the embeddings z do not tell, the
decoder cannot denoise. No caption enters, not even for validation.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlv.models.attention import use_fast_attention
from vlv.models.encoder import TASK_PROMPTS, VLVEncoder
from vlv.models.tokenizers import train_florence_tokenizer
from vlv.models.vlv import VLV
from vlv.training.latents import LatentCache
from vlv.training.stage import Batch, Stage
from vlv.training.stages.common import (
    model_config,
    picture_rows,
    training_images,
    validation_images,
)
from vlv.training.stages.denoising import (
    DenoisingConfig,
    DenoisingProbe,
    denoising_item,
    denoising_loss,
)


class Stage1Config(DenoisingConfig):
    """`decoder` is the folder of the frozen text-to-image model.

    `noise_draws` timesteps and noises are drawn for every picture: the encoder runs once for
    all, and their gradients average.
    """

    decoder: Path
    noise_draws: int = 1


class Stage1(Stage):
    """L = ||eps - eps_theta(z_t, t, T(E(x)))||^2, or the counterpart for the scheduler's target."""

    name = "stage1"

    def __init__(self, config: Stage1Config) -> None:
        super().__init__()
        self.config: Stage1Config = config
        self.data = training_images(config)
        self.held_out = validation_images(config)
        frozen = VLV.from_pretrained(config.decoder)
        self.tower = frozen.text_tower.requires_grad_(False)
        self.decoder = frozen.decoder.requires_grad_(False)
        # The prompt is the only text that the encoder reads.
        sizes = model_config(config).encoder
        self.encoder = VLVEncoder.from_config(
            sizes, train_florence_tokenizer(TASK_PROMPTS.values()), self.tower.width
        )
        use_fast_attention(self)
        self.latents = LatentCache(self.decoder.vae, self.data)
        self.probe = DenoisingProbe(
            self.decoder, LatentCache(self.decoder.vae, self.held_out), config.validation_count
        )
        self._steps = int(self.decoder.scheduler.config.num_train_timesteps)

    @property
    def size(self) -> int:
        return len(self.data)

    def item(self, position: int, index: int) -> Batch:
        item = denoising_item(
            self.latents,
            self.config.seed,
            position,
            index,
            self._steps,
            bias=self.config.timestep_bias,
            draws=self.config.noise_draws,
        )
        return {**item, "image": torch.from_numpy(self.data.images[index].copy())}

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.encoder(self.encoder.preprocess_uint8(batch["image"]))
        return denoising_loss(self.decoder, batch, self.tower(z)), {}

    def validate(self) -> dict[str, float]:
        return reconstruction_figures(self.encoder, self.tower, self.probe, self.held_out.images)

    def picture(self) -> Image.Image:
        return reconstruction_picture(self._model(), self.held_out.images[:8])

    def export(self, folder: Path) -> None:
        self._model().save_pretrained(folder)

    def _model(self) -> VLV:
        return VLV.from_boxes(encoder=self.encoder, text_tower=self.tower, decoder=self.decoder)


def reconstruction_figures(
    encoder: VLVEncoder, tower: torch.nn.Module, probe: DenoisingProbe, images: np.ndarray
) -> dict[str, float]:
    """Denoising loss of held-out pictures under their own z, another picture's, and the mean z."""
    parts = [
        encoder(encoder.preprocess_uint8(torch.from_numpy(images[at : at + 64].copy())))
        for at in range(0, len(images), 64)
    ]
    z = torch.cat(parts)
    return {
        "denoising_loss/z": probe.loss(tower(z)),
        "denoising_loss/shuffled_z": probe.loss(tower(z.roll(1, dims=0))),
        "denoising_loss/mean_z": probe.loss(tower(z.mean(0, keepdim=True).expand_as(z))),
    }


def reconstruction_picture(model: VLV, images: np.ndarray) -> Image.Image:
    """Originals above their reconstructions from embeddings."""
    drawn = model.reconstruct(
        [Image.fromarray(image) for image in images],
        seeds=range(len(images)),
        guidance_scale=2.0,
        num_inference_steps=15,
    ).images
    return picture_rows([list(images), [np.asarray(x) for x in drawn]])
