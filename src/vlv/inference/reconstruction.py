"""Images, or saved caption embeddings, -> pictures: through z alone, or through the caption.

The embeddings' way is the paper's stage 1 (c = T(z)); the caption's way feeds the decoded text to
the same text-to-image model, which shows what the words alone hold.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from vlv.errors import ConfigError
from vlv.inference.batching import Batches, BatchSize
from vlv.inference.captioning import CaptionSettings, caption_encoded
from vlv.inference.embeddings import SavedEmbeddings
from vlv.inference.encoding import Encoded, Source, encode_images
from vlv.inference.sources import Refused
from vlv.models.vlv import VLVModel

Via = Literal["embeddings", "caption"]


@dataclass(frozen=True)
class DrawSettings:
    """How pictures are drawn; the defaults are the paper's: guidance 2.0, 50 steps.

    Every picture starts from the noise of the same `seed`, so that it does not depend on the
    others it is drawn with.
    """

    guidance_scale: float = 2.0
    num_inference_steps: int = 50
    scheduler: str = "ddim"
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
    """A picture; where it was drawn from a caption, the caption and whether it was too long.

    `cut` says that the text tower has fewer positions than the caption has tokens, so that the
    picture shows its beginning only.
    """

    name: str
    picture: Image.Image
    caption: str | None = None
    cut: bool = False


def reconstruct_images(
    model: VLVModel,
    sources: Iterable[Source],
    settings: DrawSettings,
    *,
    via: Via = "embeddings",
    captions: CaptionSettings | None = None,
    batch_size: BatchSize = 8,
) -> Iterator[Reconstructed | Refused]:
    """One result for each source, in order, as soon as its batch is done."""
    encoded = encode_images(model, sources, batch_size=batch_size)
    return reconstruct_encoded(
        model, encoded, settings, via=via, captions=captions, batch_size=batch_size
    )


def saved_as_encoded(model: VLVModel, saved: SavedEmbeddings) -> list[Encoded]:
    """Saved embeddings, on the model's device, as `encode_images` would give them.

    Raises:
        ConfigError: they do not fit the model's text tower.
    """
    tower = model.text_tower
    if saved.z.shape[1] > tower.positions or saved.z.shape[2] != tower.width:
        raise ConfigError(
            f"these embeddings are {saved.z.shape[1]} of width {saved.z.shape[2]} an image and "
            f"the model takes up to {tower.positions} of width {tower.width}; use the model that "
            f"made them ({saved.model})"
        )
    z = saved.z.to(model.device, model.dtype)
    return [Encoded(name, one) for name, one in zip(saved.file_names, z, strict=True)]


def reconstruct_encoded(
    model: VLVModel,
    encoded: Iterable[Encoded | Refused],
    settings: DrawSettings,
    *,
    via: Via = "embeddings",
    captions: CaptionSettings | None = None,
    batch_size: BatchSize = 8,
) -> Iterator[Reconstructed | Refused]:
    """Pictures of images that are encoded already; what was refused before passes through."""
    if via == "caption":
        yield from _through_captions(model, encoded, settings, captions, batch_size)
        return
    batches = Batches(batch_size)
    for batch in batches.of(encoded):
        z = [one.z for one in batch if isinstance(one, Encoded)]
        pictures = iter(batches.run(lambda part: _draw_z(model, part, settings), z))
        for one in batch:
            yield one if isinstance(one, Refused) else Reconstructed(one.name, next(pictures))


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
