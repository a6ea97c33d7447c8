"""Images -> captions, batch by batch (paper, stage 2): one result for each image, in order.

Knows models and the decoder of images; knows nothing of where captions are written.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from vlv.errors import ConfigError
from vlv.inference.encoding import Encoded, Source, batches, encode_images
from vlv.inference.postprocess import Cleaning
from vlv.inference.sources import Refused
from vlv.models.vlv import VLV


@dataclass(frozen=True)
class CaptionSettings:
    """How captions are generated and mended; the defaults are the paper's: 4 beams, 300 tokens.

    A temperature of 0 searches with beams; above 0 it samples, with one beam if `num_beams` is
    None. The same seed, images and batch size give the same samples.
    """

    num_beams: int | None = None
    max_new_tokens: int = 300
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    cleaning: Cleaning = field(default_factory=Cleaning)

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ConfigError(f"temperature must be 0 or more, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.top_p < 1 and not self.samples:
            raise ConfigError("top_p has no effect without sampling; set a temperature above 0")
        if self.seed < 0:
            raise ConfigError(f"seed must be 0 or more, not {self.seed}")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ConfigError(
                f"min_new_tokens must be 0 to max_new_tokens ({self.max_new_tokens}), "
                f"not {self.min_new_tokens}"
            )

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn at random."""
        return self.temperature > 0

    def generation(self) -> dict[str, Any]:
        """The arguments of `CaptionDecoder.generate`."""
        arguments: dict[str, Any] = {
            "num_beams": self.num_beams or (1 if self.samples else 4),
            "max_new_tokens": self.max_new_tokens,
            "min_new_tokens": self.min_new_tokens,
        }
        if self.samples:
            arguments |= {
                "do_sample": True,
                "temperature": self.temperature,
                "top_p": self.top_p,
            }
        return arguments


@dataclass(frozen=True)
class Captioned:
    """A caption on one line; `ended` says whether the model ended it by itself, after `tokens`."""

    name: str
    caption: str
    ended: bool
    tokens: int


def caption_images(
    model: VLV,
    sources: Iterable[Source],
    settings: CaptionSettings | None = None,
    *,
    batch_size: int = 8,
) -> Iterator[Captioned | Refused]:
    """One result for each source, in order, as soon as its batch is done.

    An image that cannot be decoded, or for which the model writes nothing, is refused with its
    reason and stops no other.
    """
    encoded = encode_images(model, sources, batch_size=batch_size)
    return caption_encoded(model, encoded, settings, batch_size=batch_size)


def caption_encoded(
    model: VLV,
    encoded: Iterable[Encoded | Refused],
    settings: CaptionSettings | None = None,
    *,
    batch_size: int = 8,
) -> Iterator[Captioned | Refused]:
    """Captions of images that are encoded already; what was refused before passes through."""
    settings = settings or CaptionSettings()
    for number, batch in enumerate(batches(encoded, batch_size)):
        good = [one for one in batch if isinstance(one, Encoded)]
        captions = iter(_caption(model, good, settings, number))
        for one in batch:
            yield one if isinstance(one, Refused) else _checked(next(captions))


def _caption(
    model: VLV, encoded: list[Encoded], settings: CaptionSettings, number: int
) -> list[Captioned]:
    if not encoded:
        return []
    c = model.condition(torch.stack([one.z for one in encoded]))
    # Sampling draws from torch's global generator, which belongs to the caller.
    captioner = model.captioner  # loaded now: fresh layers would draw from the seeded generator
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices, enabled=settings.samples):
        if settings.samples:
            state = np.random.SeedSequence([settings.seed, number]).generate_state(1, np.uint64)
            torch.manual_seed(int(state[0]))
        made = captioner.generate(c, **settings.generation())
    return [
        Captioned(one.name, settings.cleaning.apply(text.text, text.ended), text.ended, text.tokens)
        for one, text in zip(encoded, made, strict=True)
    ]


def _checked(captioned: Captioned) -> Captioned | Refused:
    if captioned.caption:
        return captioned
    message = f"the model wrote an empty caption for {captioned.name}"
    return Refused(captioned.name, "empty-caption", message)
