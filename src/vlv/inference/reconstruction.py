"""Images or saved caption embeddings -> pictures: from z, from the caption, or from two z.

From z is the paper's stage 1 (c = T(z)). From the caption, the same text-to-image model draws the
text, which shows what the words alone hold. From both, z is what the first steps are given, and the
caption the last ones. From two z is the paper's figure 6.
"""

from collections import deque
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
from vlv.models.config import CAPTION_START, NUM_INFERENCE_STEPS
from vlv.models.vlv import Order, VLVModel

Via = Literal["embeddings", "caption", "both"]


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
    caption_start: float = CAPTION_START,
    batch_size: BatchSize = 8,
) -> Iterator[Reconstructed | Refused]:
    """One result for each image, in order, as soon as its batch is done; earlier refusals pass
    through. caption_start: of `VLVModel.reconstruct`, where pictures are drawn from both.
    """
    if via != "embeddings":
        start = None if via == "caption" else caption_start
        yield from _through_captions(model, encoded, settings, captions, start, batch_size)
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
    caption_start: float | None,
    batch_size: BatchSize,
) -> Iterator[Reconstructed | Refused]:
    """From the captions alone, or from z before them where they have a start."""
    given: deque[Encoded | Refused] = deque()  # what is captioned, in the order of the results
    results = caption_encoded(model, _noted(encoded, given), captions, batch_size=batch_size)
    batches = Batches(batch_size)

    def draw(part: list[tuple[Encoded, str]]) -> list[Image.Image]:
        return _draw_captioned(model, part, settings, caption_start)

    for batch in batches.of(results):
        sources = [given.popleft() for _ in batch]
        captioned = [
            (source, one.caption)
            for source, one in zip(sources, batch, strict=True)
            if isinstance(source, Encoded) and not isinstance(one, Refused)
        ]
        pictures = iter(batches.run(draw, captioned))
        for one in batch:
            if isinstance(one, Refused):
                yield one
                continue
            text = one.caption
            cut = not model.text_tower.reads_whole(text)
            yield Reconstructed(one.name, next(pictures), text, cut)


def _noted(
    encoded: Iterable[Encoded | Refused], given: deque[Encoded | Refused]
) -> Iterator[Encoded | Refused]:
    for one in encoded:
        given.append(one)
        yield one


def _draw_captioned(
    model: VLVModel,
    captioned: list[tuple[Encoded, str]],
    settings: DrawSettings,
    caption_start: float | None,
) -> list[Image.Image]:
    texts = [text for _, text in captioned]
    drawing = {**settings.drawing(len(texts)), "batch_size": len(texts)}
    if caption_start is None:
        return model.draw(texts, **drawing).images
    z = torch.stack([one.z for one, _ in captioned])
    return model.reconstruct(z, captions=texts, caption_start=caption_start, **drawing).images


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
