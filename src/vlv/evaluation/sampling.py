"""Pictures of many scenes with the same noise under every condition."""

from contextlib import AbstractContextManager

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlv.evaluation.metrics.pictures import Pictures
from vlv.evaluation.progress import Progress
from vlv.models.attention import use_fast_attention
from vlv.models.precision import Precision
from vlv.models.precision import mixed_precision as resolved
from vlv.models.vlv import VLV
from vlv.world.inspector import to_pixels

# Far more scenes than a set has, so that two seeds of an evaluation share no noise.
_SEED_STRIDE = 1_000_000


class Painter:
    """Draws with a model's diffusion decoder; scene i always starts from noise i of the seed."""

    def __init__(
        self,
        model: VLV,
        *,
        seed: int,
        num_inference_steps: int,
        scheduler: str = "ddim",
        mixed_precision: Precision = "no",
        batch_size: int,
        progress: Progress,
    ) -> None:
        self._model = model
        self._first = seed * _SEED_STRIDE
        self._steps = num_inference_steps
        self._scheduler = scheduler
        model.decoder.sampler(scheduler)  # an unknown name is told before the work
        self.mixed_precision = resolved(mixed_precision, model.device)
        if self.mixed_precision == "bf16":
            use_fast_attention(model.decoder, model.device)
        self._batch_size = batch_size
        self._progress = progress
        self.drawn = 0

    @torch.no_grad()
    def draw(self, c: Tensor, guidance_scale: float, name: str) -> Pictures:
        """A picture for each c (n, Q, d) of the first n scenes."""
        uncond = self._model.text_tower.unconditional(1, c.shape[1])
        starts = range(0, len(c), self._batch_size)
        pictures = [
            np.asarray(picture)
            for at in self._progress(
                starts, total=len(starts), unit="batch", description=f"{name} x{guidance_scale:g}"
            )
            for picture in self._batch(
                c[at : at + self._batch_size], uncond, guidance_scale, self._first + at
            )
        ]
        self.drawn += len(pictures)
        return np.stack(pictures)

    def _batch(
        self, c: Tensor, uncond: Tensor, guidance_scale: float, first: int
    ) -> list[Image.Image]:
        with self._precision():
            return self._model.decoder.generate(
                c,
                uncond=uncond,
                guidance_scale=guidance_scale,
                num_inference_steps=self._steps,
                scheduler=self._scheduler,
                seeds=range(first, first + len(c)),
            )

    def _precision(self) -> AbstractContextManager[None]:
        device = self._model.device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.mixed_precision == "bf16")

    @torch.no_grad()
    def round_trip(self, pictures: Pictures) -> Pictures:
        """Pictures that went through the VAE and back, by the posterior's mean."""
        decoder = self._model.decoder
        starts = range(0, len(pictures), self._batch_size)
        parts = []
        for at in self._progress(
            starts, total=len(starts), unit="batch", description="VAE round trip"
        ):
            pixels = to_pixels(torch.from_numpy(pictures[at : at + self._batch_size]))
            back = decoder.decode_latents(decoder.encode_images(pixels.to(self._model.device)))
            levels = (back.clamp(-1, 1) + 1) * 127.5
            parts.append(levels.round().byte().permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(parts)
