"""What pictures are drawn from: embeddings, captions and controls, each as a conditioning c.

Shapes: n scenes, Q embeddings, d width of z and c.
"""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from vlv.evaluation.held_out import HeldOut
from vlv.evaluation.progress import Progress
from vlv.models.caption_decoder import Caption
from vlv.models.vlv import VLVModel

# Drawn at every guidance scale, in the order of the table.
SOURCES = ("true-captions", "embeddings-before-stage2", "embeddings", "generated-captions")
# Drawn at one, to show what pictures are worth that know nothing of their own scene.
CONTROLS = ("shuffled-z", "mean-z", "unconditional", "random-captions")


@dataclass(frozen=True)
class Embeddings:
    """z (n, Q, d) of the scenes' pictures, and that of the encoder before stage 2; None where
    there is no such encoder.
    """

    z: Tensor | None
    before_stage2: Tensor | None


def encode(
    model: VLVModel, data: HeldOut, batch_size: int, progress: Progress, name: str
) -> Tensor:
    """Embeddings z (n, Q, d) of the scenes' renders."""
    starts = range(0, len(data), batch_size)
    parts = [
        model.encode([Image.fromarray(one) for one in data.renders[at : at + batch_size]])
        for at in progress(starts, total=len(starts), unit="batch", description=name)
    ]
    return torch.cat(parts)


def write_captions(
    model: VLVModel, z: Tensor, num_beams: int, batch_size: int, progress: Progress
) -> list[Caption]:
    """A caption of every z (n, Q, d), exactly as the language model leaves it."""
    parts = z.split(batch_size)
    return [
        made
        for part in progress(parts, total=len(parts), unit="batch", description="captions")
        for made in model.caption_decoder.generate(model.read(part), num_beams=num_beams)
    ]


@torch.no_grad()
def conditions(
    model: VLVModel, data: HeldOut, embeddings: Embeddings, generated: list[Caption] | None
) -> dict[str, Tensor]:
    """Conditionings c (n, Q, d) by name, for those of `SOURCES` and `CONTROLS` that can be made.

    Where one scene's embeddings or caption are given to another, it is the one before it.
    """
    tower = model.text_tower
    found = {"true-captions": tower.encode_text(data.captions)}
    if embeddings.before_stage2 is not None:
        found["embeddings-before-stage2"] = model.condition(embeddings.before_stage2)
    if embeddings.z is not None:
        c = model.condition(embeddings.z)
        found["embeddings"] = c
        if generated is not None:
            found["generated-captions"] = tower.encode_text([made.text for made in generated])
        found["shuffled-z"] = c.roll(1, dims=0)
        mean = embeddings.z.mean(dim=0, keepdim=True)
        found["mean-z"] = model.condition(mean).expand_as(c)
    found["unconditional"] = tower.unconditional(len(data), tower.positions)
    found["random-captions"] = found["true-captions"].roll(1, dims=0)
    return found
