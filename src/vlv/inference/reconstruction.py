"""Images or saved caption embeddings -> pictures: from z, from the caption, or from two z.

From z is the paper's stage 1 (c = T(z)). From the caption, the same text-to-image model draws the
text, which shows what the words alone hold. From two z is the paper's figure 6.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from vlv.data.images import MAX_OWN_PIXELS, load_image
from vlv.errors import ConfigError
from vlv.inference.batching import Batches, BatchSize
from vlv.inference.captioning import CaptionSettings, caption_encoded
from vlv.inference.embeddings import SUFFIX, load_embeddings, saved_as_encoded
from vlv.inference.records import Encoded, Refused
from vlv.models.config import NUM_INFERENCE_STEPS
from vlv.models.vlv import Order, VLVModel

Via = Literal["embeddings", "caption"]


@dataclass(frozen=True)
class DrawSettings:
    """How pictures are drawn; guidance 2.0 is the paper's, which takes 50 steps of DDPM. A
    scheduler of None is that of the model's family.

    Every picture starts from the noise of the same `seed`, so that it does not depend on the
    other pictures of its batch.
    """

    guidance_scale: float = 2.0
    num_inference_steps: int = NUM_INFERENCE_STEPS
    scheduler: str | None = None
    seed: int = 0

    def drawing(self, count: int) -> dict[str, Any]:
        """The arguments of `VLV.reconstruct`, `draw` and `compose` for `count` pictures."""
        return {
            "guidance_scale": self.guidance_scale,
            "num_inference_steps": self.num_inference_steps,
            "scheduler": self.scheduler,
            "seeds": [self.seed] * count,
        }


@dataclass(frozen=True)
class Reconstructed:
    """A picture and, if it was drawn from a caption, the caption.

    cut: the caption has more tokens than the text tower has positions, so that the picture shows
    its beginning only.
    """

    name: str
    picture: Image.Image
    caption: str | None = None
    cut: bool = False


def reconstruct_encoded(
    model: VLVModel,
    encoded: Iterable[Encoded | Refused],
    settings: DrawSettings,
    *,
    via: Via = "embeddings",
    captions: CaptionSettings | None = None,
    batch_size: BatchSize = 8,
) -> Iterator[Reconstructed | Refused]:
    """One result for each image, in order, as soon as its batch is done; earlier refusals pass
    through.
    """
    if via == "caption":
        yield from _through_captions(model, encoded, settings, captions, batch_size)
        return
    batches = Batches(batch_size)
    for batch in batches.of(encoded):
        z = [one.z for one in batch if isinstance(one, Encoded)]
        pictures = iter(batches.run(lambda part: _draw_z(model, part, settings), z))
        for one in batch:
            yield one if isinstance(one, Refused) else Reconstructed(one.name, next(pictures))


def compose_pictures(
    model: VLVModel,
    a: Path,
    b: Path,
    *,
    keep_a: int,
    keep_b: int,
    settings: DrawSettings,
    order: Order = "leading",
) -> Image.Image:
    """Draw the first `keep_a` embeddings of `a` followed by `keep_b` of `b`.

    `a` and `b` are images, or files with the saved embeddings of one image. order: as for
    `VLVModel.compose`.

    Raises:
        ImageError: an image was refused.
        DatasetError: a file holds no saved embeddings.
        ConfigError: there are fewer embeddings to keep, or the text tower has fewer positions.
    """
    z_a, z_b = _embeddings(model, a), _embeddings(model, b)
    (picture,) = model.compose(z_a, z_b, keep_a, keep_b, order, **settings.drawing(1)).images
    return picture


def _draw_z(model: VLVModel, z: list[Tensor], settings: DrawSettings) -> list[Image.Image]:
    return model.reconstruct(torch.stack(z), **settings.drawing(len(z)), batch_size=len(z)).images


def _through_captions(
    model: VLVModel,
    encoded: Iterable[Encoded | Refused],
    settings: DrawSettings,
    captions: CaptionSettings | None,
    batch_size: BatchSize,
) -> Iterator[Reconstructed | Refused]:
    results = caption_encoded(model, encoded, captions, batch_size=batch_size)
    batches = Batches(batch_size)
    for batch in batches.of(results):
        texts = [one.caption for one in batch if not isinstance(one, Refused)]
        pictures = iter(batches.run(lambda part: _draw_texts(model, part, settings), texts))
        for one in batch:
            if isinstance(one, Refused):
                yield one
                continue
            text = one.caption
            cut = not model.text_tower.reads_whole(text)
            yield Reconstructed(one.name, next(pictures), text, cut)


def _draw_texts(model: VLVModel, texts: list[str], settings: DrawSettings) -> list[Image.Image]:
    return model.draw(texts, **settings.drawing(len(texts)), batch_size=len(texts)).images


def _embeddings(model: VLVModel, path: Path) -> Tensor:
    """Embeddings z (1,Q,d) of an image, or of the one image in a file of embeddings."""
    if path.suffix != SUFFIX:
        return model.encode(load_image(path, max_pixels=MAX_OWN_PIXELS))
    encoded = saved_as_encoded(model, load_embeddings(path))
    if len(encoded) != 1:
        raise ConfigError(
            f"{path} holds the embeddings of {len(encoded)} images, and composing takes one"
        )
    return encoded[0].z.unsqueeze(0)
