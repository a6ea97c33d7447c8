"""Images -> captions, batch by batch (paper, stage 2): one result for each image, in order.

`vlv caption`, bulk jobs and `VLV.caption` all come here. Where captions are written is decided
elsewhere.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from vlv.errors import ConfigError
from vlv.inference.batching import Batches, BatchSize
from vlv.inference.encoding import encode_images
from vlv.inference.postprocess import Cleaning
from vlv.inference.records import Captioned, Encoded, ImageInput, Refused
from vlv.models.outputs import Caption
from vlv.models.vlv import VLVModel

# The reason of an out-of-distribution image that is refused because such images are skipped.
OUT_OF_DISTRIBUTION = "out_of_distribution"


@dataclass(frozen=True)
class CaptionSettings:
    """How captions are generated and cleaned; the defaults are the paper's: 4 beams, 300 tokens.

    A temperature of 0 searches with beams. Above 0 tokens are sampled, with one beam if
    `num_beams` is None; the same seed, images and batch size give the same samples.
    num_return_sequences N gives N captions for each image: the best N beams, or N samples. Every
    caption begins with forced_start, and banned_words do not occur in the rest, in upper or lower
    case.
    """

    num_beams: int | None = None
    num_return_sequences: int = 1
    max_new_tokens: int = 300
    min_new_tokens: int = 0
    early_stopping: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    forced_start: str = ""
    banned_words: tuple[str, ...] = ()
    cleaning: Cleaning = field(default_factory=Cleaning)

    def __post_init__(self) -> None:
        if self.num_beams is not None and self.num_beams < 1:
            raise ConfigError(f"num_beams must be 1 or more, not {self.num_beams}")
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
        independent = self.samples and self.beams == 1
        if self.num_return_sequences < 1 or (
            self.num_return_sequences > self.beams and not independent
        ):
            raise ConfigError(
                f"num_return_sequences must be 1 to num_beams ({self.beams}), "
                f"not {self.num_return_sequences}; give more beams, or a temperature above 0"
            )

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn at random."""
        return self.temperature > 0

    @property
    def beams(self) -> int:
        """Beams of the search, 1 for none."""
        return self.num_beams or (1 if self.samples else 4)

    @property
    def sequences(self) -> int:
        """The number of texts that the language model writes at once for one image."""
        return max(self.beams, self.num_return_sequences)

    def generation(self) -> dict[str, Any]:
        """The arguments of `CaptionDecoder.generate`."""
        arguments: dict[str, Any] = {
            "num_beams": self.beams,
            "num_return_sequences": self.num_return_sequences,
            "early_stopping": self.early_stopping,
            "max_new_tokens": self.max_new_tokens,
            "min_new_tokens": self.min_new_tokens,
            "forced_start": self.forced_start,
            "banned_words": self.banned_words,
        }
        if self.samples:
            arguments |= {
                "do_sample": True,
                "temperature": self.temperature,
                "top_p": self.top_p,
            }
        return arguments


def caption_images(
    model: VLVModel,
    images: Iterable[ImageInput | Refused],
    settings: CaptionSettings | None = None,
    *,
    batch_size: BatchSize = 8,
    skip_ood: bool = False,
) -> Iterator[Captioned | Refused]:
    """One result for each image, in order, as soon as its batch is done.

    An image that cannot be decoded, or for which the model writes nothing, is refused with its
    reason, and the others go on; earlier refusals pass through. skip_ood: refuse images that are
    out of distribution as `OUT_OF_DISTRIBUTION` instead of captioning them.

    Raises:
        ConfigError: the batch size is "auto" and captions are sampled.
    """
    encoded = encode_images(model, images, batch_size=batch_size)
    return caption_encoded(model, encoded, settings, batch_size=batch_size, skip_ood=skip_ood)


def caption_encoded(
    model: VLVModel,
    encoded: Iterable[Encoded | Refused],
    settings: CaptionSettings | None = None,
    *,
    batch_size: BatchSize = 8,
    skip_ood: bool = False,
) -> Iterator[Captioned | Refused]:
    """`caption_images` of images that are encoded already."""
    if skip_ood:
        encoded = map(_refused_if_ood, encoded)
    settings = settings or CaptionSettings()
    if batch_size == "auto" and settings.samples:
        raise ConfigError(
            "samples depend on the batch size, so that auto would make them depend on the memory "
            "that is free; give a number"
        )
    return _caption_batches(model, encoded, settings, Batches(batch_size))


def _refused_if_ood(one: Encoded | Refused) -> Encoded | Refused:
    if isinstance(one, Refused) or one.in_distribution is not False:
        return one
    message = f"{one.name} is unlike the images that this model was trained on"
    return Refused(one.name, OUT_OF_DISTRIBUTION, message)


def _caption_batches(
    model: VLVModel,
    encoded: Iterable[Encoded | Refused],
    settings: CaptionSettings,
    batches: Batches,
) -> Iterator[Captioned | Refused]:
    for number, batch in enumerate(batches.of(encoded)):
        good = [one for one in batch if isinstance(one, Encoded)]
        captions = iter(batches.run(partial(_caption, model, settings, number), good))
        for one in batch:
            yield one if isinstance(one, Refused) else next(captions)


def _caption(
    model: VLVModel, settings: CaptionSettings, number: int, encoded: list[Encoded]
) -> list[Captioned | Refused]:
    read = model.read(torch.stack([one.z for one in encoded]))
    # Loaded before the seed is set: fresh layers would draw from the seeded generator.
    caption_decoder = model.caption_decoder
    # Sampling draws from torch's global generator, which belongs to the caller.
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices, enabled=settings.samples):
        if settings.samples:
            state = np.random.SeedSequence([settings.seed, number]).generate_state(1, np.uint64)
            torch.manual_seed(int(state[0]))
        made = caption_decoder.generate(read, **settings.generation())
    each = settings.num_return_sequences
    return [
        _cleaned(one, made[start : start + each], settings.cleaning)
        for one, start in zip(encoded, range(0, len(made), each), strict=True)
    ]


def _cleaned(encoded: Encoded, made: list[Caption], cleaning: Cleaning) -> Captioned | Refused:
    """The image with its captions after cleaning, without those that are empty then."""
    cleaned = (replace(one, text=cleaning.apply(one.text, one.ended)) for one in made)
    captions = tuple(one for one in cleaned if one.text)
    if not captions:
        message = f"the model wrote an empty caption for {encoded.name}"
        return Refused(encoded.name, "empty-caption", message)
    return Captioned(encoded.image, captions, encoded.in_distribution)
