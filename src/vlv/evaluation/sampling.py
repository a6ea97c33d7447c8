"""What is sampled from a model for held-out scenes: embeddings, captions, conditionings, pictures.

Every conditioning is drawn from the same noise for the same scene, so that rows of a table differ
by their conditioning only.

Shapes: n scenes, Q embeddings, d width of z and c.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlv.evaluation.metrics.pictures import ImageArray
from vlv.evaluation.results import Progress
from vlv.models.conditioning import Conditioning, LatePrompt
from vlv.models.config import SCHEDULER
from vlv.models.outputs import Caption
from vlv.models.precision import Precision, use_fast_attention
from vlv.models.precision import mixed_precision as resolved
from vlv.models.vlv import VLVModel
from vlv.world.inspector import to_pixels

# What pictures are drawn from, in the order of the table.
SOURCES = ("true-captions", "embeddings-before-stage2", "embeddings", "generated-captions")
# Conditionings that hold nothing of their own scene.
CONTROLS = ("shuffled-z", "mean-z", "unconditional", "random-captions")

# Far more scenes than a set has, so that two seeds of an evaluation share no noise.
_SEED_STRIDE = 1_000_000


@dataclass(frozen=True)
class Embeddings:
    """z (n, Q, d) of the scenes' pictures, by the encoder and by the one before stage 2.

    None where there is no such encoder.
    """

    z: Tensor | None
    before_stage2: Tensor | None


def encode(
    model: VLVModel, renders: ImageArray, batch_size: int, progress: Progress, name: str
) -> Tensor:
    """Embeddings z (n, Q, d) of the scenes' renders."""
    starts = range(0, len(renders), batch_size)
    parts = [
        model.encode([Image.fromarray(one) for one in renders[at : at + batch_size]])
        for at in progress(starts, total=len(starts), unit="batch", description=name)
    ]
    return torch.cat(parts)


def write_captions(
    model: VLVModel, z: Tensor, num_beams: int, batch_size: int, progress: Progress
) -> list[Caption]:
    """A caption of every z (n, Q, d), exactly as the language model writes it."""
    parts = z.split(batch_size)
    return [
        made
        for part in progress(parts, total=len(parts), unit="batch", description="captions")
        for made in model.caption_decoder.generate(model.read(part), num_beams=num_beams)
    ]


@torch.no_grad()
def conditionings(
    model: VLVModel,
    true_captions: Sequence[str],
    embeddings: Embeddings,
    generated: Sequence[Caption] | None,
) -> dict[str, Conditioning]:
    """Conditionings c of n scenes by name, for those of `SOURCES` and `CONTROLS` that can be made.

    Where a scene gets the embeddings or the caption of another one, it is the scene before it.
    """
    tower = model.text_tower
    before = [*range(-1, len(true_captions) - 1)]
    found = {"true-captions": tower.encode_text(list(true_captions))}
    if embeddings.before_stage2 is not None:
        found["embeddings-before-stage2"] = model.condition(embeddings.before_stage2)
    if embeddings.z is not None:
        c = model.condition(embeddings.z)
        found["embeddings"] = c
        if generated is not None:
            found["generated-captions"] = tower.encode_text([made.text for made in generated])
        found["shuffled-z"] = c[before]
        mean = embeddings.z.mean(dim=0, keepdim=True)
        found["mean-z"] = model.condition(mean).repeat(len(c))
    found["unconditional"] = tower.unconditional(len(true_captions))
    found["random-captions"] = found["true-captions"][before]
    return found


class ImageSampler:
    """Draws with a model's diffusion decoder; scene i always starts from noise i of the seed."""

    def __init__(
        self,
        model: VLVModel,
        *,
        seed: int,
        num_inference_steps: int,
        scheduler: str = SCHEDULER,
        mixed_precision: Precision = "no",
        batch_size: int,
        progress: Progress,
    ) -> None:
        """Raises:
        ConfigError: there is no such scheduler.
        """
        self._model = model
        self._first = seed * _SEED_STRIDE
        self._steps = num_inference_steps
        self._scheduler = scheduler
        model.decoder.sampler(scheduler)  # an unknown name is reported before the work
        self.mixed_precision = resolved(mixed_precision, model.device)
        if self.mixed_precision == "bf16":
            use_fast_attention(model.decoder, model.device)
        self._batch_size = batch_size
        self._progress = progress
        self.drawn = 0

    @torch.no_grad()
    def draw(
        self, c: Conditioning, guidance_scale: float, name: str, late: LatePrompt | None = None
    ) -> ImageArray:
        """A picture for each of the first n scenes; c, and what takes its place in the last steps,
        is of n scenes.
        """
        uncond = self._model.text_tower.unconditional_for(c)
        starts = range(0, len(c), self._batch_size)
        pictures = [
            np.asarray(picture)
            for at in self._progress(
                starts, total=len(starts), unit="batch", description=f"{name} x{guidance_scale:g}"
            )
            for picture in self._batch(
                c[at : at + self._batch_size],
                uncond,
                None if late is None else late[at : at + self._batch_size],
                guidance_scale,
                self._first + at,
            )
        ]
        self.drawn += len(pictures)
        return np.stack(pictures)

    def _batch(
        self,
        c: Conditioning,
        uncond: Conditioning,
        late: LatePrompt | None,
        guidance_scale: float,
        first: int,
    ) -> list[Image.Image]:
        with self._precision():
            return self._model.decoder.generate(
                c,
                uncond=uncond,
                late=late,
                guidance_scale=guidance_scale,
                num_inference_steps=self._steps,
                scheduler=self._scheduler,
                seeds=range(first, first + len(c)),
            )

    def _precision(self) -> AbstractContextManager[None]:
        device = self._model.device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.mixed_precision == "bf16")

    @torch.no_grad()
    def round_trip(self, pictures: ImageArray) -> ImageArray:
        """Pictures encoded by the VAE and decoded again, by the mean of the posterior."""
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
