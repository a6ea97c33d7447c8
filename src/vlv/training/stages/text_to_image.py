"""Stage `text-to-image`: the stand-in for Stable Diffusion, trained on pictures with captions.

Text tower and U-Net learn together on the latents of a frozen VAE. Both are frozen for good
afterwards.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from pydantic import Field
from torch import Tensor

from vlv.checkpoints.components import load_network
from vlv.models.attention import use_fast_attention
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.text_tower import TextTower
from vlv.models.tokenizers import train_clip_tokenizer
from vlv.models.vlv import VLV
from vlv.training.accelerator import computing_device
from vlv.training.model_names import component_folder, model_folder
from vlv.training.objectives.denoising import (
    DenoisingConfig,
    DenoisingProbe,
    denoising_draws,
    denoising_loss,
)
from vlv.training.provenance import record_of
from vlv.training.samples.data_order import generator, numpy_generator
from vlv.training.samples.images import WorldHeldOut
from vlv.training.samples.latents import LatentCache
from vlv.training.stage import Batch, Stage
from vlv.training.stages.common import (
    caption_texts,
    model_config,
    picture_rows,
    training_images,
)
from vlv.world.language import short_caption


class TextToImageConfig(DenoisingConfig):
    """`vae` is the folder of the frozen VAE; some captions are left out, for guidance.

    The networks are fresh, of the sizes in `model`, or those of `initial_model`, a folder whose
    text tower and U-Net are trained further; `vae` may be another than the one they learned with.
    Without `train_text_tower` the tower stays as it is, and with it what others have learned to
    read of c.
    """

    vae: Path
    initial_model: Path | None = None
    train_text_tower: bool = True
    caption_dropout: float = Field(0.1, ge=0, le=1)
    tokenizer_captions: int = Field(4000, gt=0)


class TextToImageStage(Stage):
    """The denoising loss under c = T(caption); in a share of samples under c = T("")."""

    name = "text-to-image"

    def __init__(self, config: TextToImageConfig) -> None:
        super().__init__()
        self.config: TextToImageConfig = config
        vae = load_network(AutoencoderKL, component_folder(config.vae, "vae"))
        vae.requires_grad_(False)
        self.data = training_images(config)
        if config.initial_model is None:
            sizes = model_config(config)
            tokenizer = train_clip_tokenizer(caption_texts(config.tokenizer_captions))
            self.tower = TextTower.from_config(sizes.text_tower, tokenizer)
            self.decoder = DiffusionDecoder(
                vae,
                UNet2DConditionModel(**sizes.unet),
                DDPMScheduler(**sizes.scheduler),
                sizes.decoder_image_size,
            )
        else:
            model = VLV.from_pretrained(config.initial_model)
            self.before = record_of(model_folder(config.initial_model), self.name)
            self.tower, self.decoder = model.text_tower, model.decoder
            self.decoder.vae = vae
            self.decoder.unet.requires_grad_(True)
        self.tower.requires_grad_(config.train_text_tower)
        use_fast_attention(self, computing_device())
        self.held_out = WorldHeldOut(config, self.decoder)
        self.latents = LatentCache(vae, self.data, config.mixed_precision)
        self.probe = DenoisingProbe(self.decoder, self.held_out)
        self._steps = int(self.decoder.scheduler.config.num_train_timesteps)

    @property
    def size(self) -> int:
        return len(self.data)

    def item(self, position: int, index: int) -> Batch:
        seed = self.config.seed
        caption = short_caption(self.data.scene(index), numpy_generator(seed, position, "caption"))
        chance = torch.rand((), generator=generator(seed, position, "dropout"))
        if float(chance) < self.config.caption_dropout:
            caption = ""
        draws = denoising_draws(
            self.latents.shape, seed, position, self._steps, bias=self.config.timestep_bias
        )
        item = self.latents.put_into(draws, index)
        return {**item, "input_ids": self.tower.tokenise([caption])[0]}

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        c = self.tower.encode_ids(batch["input_ids"])
        return denoising_loss(self.decoder, batch, c), {}

    def _captions(self, count: int) -> list[str]:
        return self.held_out.captions(range(count))

    def validate(self) -> dict[str, float]:
        count = self.config.validation_count
        c = self.tower.encode_text(self._captions(count))
        return {
            "denoising_loss/caption": self.probe.loss(c),
            "denoising_loss/shuffled_caption": self.probe.loss(c.roll(1, dims=0)),
            "denoising_loss/unconditional": self.probe.loss(
                self.tower.unconditional(count, c.shape[1])
            ),
        }

    def picture(self) -> Image.Image:
        model = VLV.from_boxes(text_tower=self.tower, decoder=self.decoder)
        originals = list(self.held_out.images[:8])
        drawn = model.draw(
            self._captions(len(originals)),
            seeds=range(len(originals)),
            guidance_scale=3.0,
            num_inference_steps=15,
        ).images
        return picture_rows([originals, [np.asarray(x) for x in drawn]])

    def export(self, folder: Path) -> None:
        VLV.from_boxes(text_tower=self.tower, decoder=self.decoder).save_pretrained(folder)
