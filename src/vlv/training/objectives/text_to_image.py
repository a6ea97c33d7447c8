"""Stage `text-to-image`: the stand-in for Stable Diffusion, trained on pictures with captions.

Text tower and U-Net learn together on the latents of a frozen VAE. Later stages freeze both.
"""

from collections.abc import Collection
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlv.checkpoints.opening import save_model
from vlv.models.conditioning import Conditioning, concatenated
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.text_tower import TextTower
from vlv.models.vlv import VLVModel
from vlv.training.objectives.denoising import PLAIN, DenoisingProbe, denoising_loss
from vlv.training.objectives.objective import Objective, picture_rows
from vlv.training.objectives.weighting import LossWeighting
from vlv.training.samples.held_out import HeldOut
from vlv.training.samples.source import Batch


class TextToImageObjective(Objective):
    """The denoising loss under c = T(caption); in a share of samples under the unconditional
    context that sampling uses: T(""), or what the family has in its place.

    `held_out` is None where nothing is validated.
    """

    def __init__(
        self,
        text_tower: TextTower,
        decoder: DiffusionDecoder,
        held_out: HeldOut | None = None,
        *,
        train_text_tower: bool = True,
        weighting: LossWeighting = PLAIN,
    ) -> None:
        super().__init__()
        self.text_tower = text_tower.requires_grad_(train_text_tower)
        self.decoder = decoder.requires_grad_(True)
        self.decoder.vae.requires_grad_(False)
        self.weighting = weighting
        self._held_out = held_out

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        c = self.text_tower.encode_ids(batch["input_ids"])
        if not self.text_tower.unconditional_is_a_text:
            c = self._without_dropped(c, batch["dropped"])
        return denoising_loss(self.decoder, batch, c, self.weighting), {}

    def _without_dropped(self, c: Conditioning, dropped: Tensor) -> Conditioning:
        """C of B samples, of which some (B,) are unconditional."""
        rows = torch.arange(len(c), device=c.device)
        both = concatenated([c, self.text_tower.unconditional_for(c)])
        return both[torch.where(dropped, len(c), rows)]

    @property
    def held_out(self) -> HeldOut:
        """Pictures with captions to validate on."""
        assert self._held_out is not None  # what is counted only is never validated
        return self._held_out

    @cached_property
    def _probe(self) -> DenoisingProbe:
        return DenoisingProbe(self.decoder, self.held_out)

    def validate(self) -> dict[str, float]:
        count = len(self.held_out)
        c = self.text_tower.encode_text(self.held_out.captions(range(count)))
        return {
            "denoising_loss/caption": self._probe.loss(c),
            "denoising_loss/shuffled_caption": self._probe.loss(c[[*range(-1, count - 1)]]),
            "denoising_loss/unconditional": self._probe.loss(
                self.text_tower.unconditional_for(c).repeat(count)
            ),
        }

    @property
    def best_by(self) -> Collection[str]:
        return ["denoising_loss/caption"]

    def picture(self) -> Image.Image:
        originals = list(self.held_out.images[:8])
        drawn = (
            self._model()
            .draw(
                self.held_out.captions(range(len(originals))),
                seeds=range(len(originals)),
                guidance_scale=3.0,
                num_inference_steps=15,
            )
            .images
        )
        return picture_rows([originals, [np.asarray(x) for x in drawn]])

    def export(self, folder: Path) -> None:
        save_model(self._model(), folder)

    def _model(self) -> VLVModel:
        return VLVModel.from_boxes(text_tower=self.text_tower, decoder=self.decoder)
