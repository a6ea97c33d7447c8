"""Stage 2: a language model learns to read the caption embeddings (paper, section 3.2).

Pairs of picture and caption; cross-entropy on the caption and its end token. Where the encoder
trains too, the denoising loss of stage 1 stays on, so that the z that is captioned still
reconstructs the picture.
"""

from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from vlv.models.attention import use_fast_attention
from vlv.models.caption_decoder import CaptionDecoder, load_language_model
from vlv.models.vlv import VLV
from vlv.training.latents import LatentCache
from vlv.training.order import numpy_generator
from vlv.training.stage import Batch, Stage
from vlv.training.stages.common import training_images, validation_images
from vlv.training.stages.denoising import (
    DenoisingConfig,
    DenoisingProbe,
    denoising_item,
    denoising_loss,
)
from vlv.training.stages.language_model import caption_item, trim
from vlv.training.stages.stage1 import reconstruction_figures, reconstruction_picture
from vlv.training.stages.text_to_image import held_out_caption
from vlv.world.language import short_caption

Part = Literal["vision", "encoder", "psi", "language_model"]


class Stage2Config(DenoisingConfig):
    """`stage1` and `language_model` are the folders of those runs.

    `trainable` names parts: vision (the vision tower), encoder (transformer, queries and phi),
    psi, language_model. `denoising_weight` counts only where the encoder or vision tower trains.
    """

    stage1: Path
    language_model: Path
    trainable: list[Part] = Field(
        default=["vision", "encoder", "psi", "language_model"], min_length=1
    )
    denoising_weight: float = Field(1.0, ge=0)
    max_tokens: int = 96


class Stage2(Stage):
    """Cross-entropy of the caption given e = psi(T(E(x))), plus the weighted denoising loss."""

    name = "stage2"

    def __init__(self, config: Stage2Config) -> None:
        super().__init__()
        self.config: Stage2Config = config
        self.data = training_images(config)
        self.held_out = validation_images(config)
        model = VLV.from_pretrained(config.stage1)
        self.encoder, self.tower, self.decoder = model.encoder, model.text_tower, model.decoder
        lm, tokenizer = load_language_model(config.language_model)
        self.captioner = CaptionDecoder(lm, tokenizer, self.tower.width)
        self._choose_trainable()
        use_fast_attention(self)
        self.latents = LatentCache(self.decoder.vae, self.data)
        self.probe = DenoisingProbe(
            self.decoder, LatentCache(self.decoder.vae, self.held_out), config.validation_count
        )
        self._steps = int(self.decoder.scheduler.config.num_train_timesteps)

    def _choose_trainable(self) -> None:
        self.requires_grad_(False)
        parts: dict[str, list[nn.Parameter]] = {**self.encoder.parts(), **self.captioner.parts()}
        for name in self.config.trainable:
            for parameter in parts[name]:
                parameter.requires_grad_(True)

    @property
    def denoises(self) -> bool:
        """Whether the denoising loss is part of the objective."""
        moves = {"vision", "encoder"} & set(self.config.trainable)
        return bool(moves) and self.config.denoising_weight > 0

    @property
    def size(self) -> int:
        return len(self.data)

    def item(self, position: int, index: int) -> Batch:
        seed = self.config.seed
        text = short_caption(self.data.scene(index), numpy_generator(seed, position, "caption"))
        item = caption_item(self.captioner, text, self.config.max_tokens)
        item["image"] = torch.from_numpy(self.data.images[index].copy())
        if self.denoises:
            item |= denoising_item(
                self.latents, seed, position, index, self._steps, bias=self.config.timestep_bias
            )
        return item

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.encoder(self.encoder.preprocess_uint8(batch["image"]))
        c = self.tower(z)
        caption = self.captioner(c, *trim(batch))
        if not self.denoises:
            return caption, {"caption_loss": caption.detach()}
        denoising = denoising_loss(self.decoder, batch, c)
        figures = {"caption_loss": caption.detach(), "denoising_loss": denoising.detach()}
        return caption + self.config.denoising_weight * denoising, figures

    def validate(self) -> dict[str, float]:
        count = self.config.validation_count
        losses = []
        for start in range(0, count, 64):
            chunk = range(start, min(start + 64, count))
            images = torch.from_numpy(self.held_out.images[chunk.start : chunk.stop].copy())
            c = self.tower(self.encoder(self.encoder.preprocess_uint8(images)))
            texts = [held_out_caption(self.held_out, index) for index in chunk]
            ids, lengths = self.captioner.tokenise(texts)
            loss = self.captioner(c, ids.to(self.device), lengths.to(self.device))
            losses.append(len(chunk) * float(loss))
        figures = reconstruction_figures(self.encoder, self.tower, self.probe, self.held_out.images)
        return {"caption_loss": sum(losses) / count, **figures}

    def picture(self) -> Image.Image:
        return reconstruction_picture(self._model(), self.held_out.images[:8])

    def export(self, folder: Path) -> None:
        self._model().save_pretrained(folder)

    def _model(self) -> VLV:
        return VLV.from_boxes(
            encoder=self.encoder,
            text_tower=self.tower,
            decoder=self.decoder,
            captioner=self.captioner,
        )
