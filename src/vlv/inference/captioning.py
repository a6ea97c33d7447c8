"""Images -> captions, batch by batch (paper, stage 2): one result for each image, in order.

Knows models and the decoder of images; knows nothing of where captions are written.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vlv.errors import ConfigError
from vlv.inference.batching import Batches, BatchSize
from vlv.inference.encoding import Encoded, Source, encode_images
from vlv.inference.postprocess import Cleaning
from vlv.inference.sources import Refused
from vlv.models.vlv import VLVModel

if TYPE_CHECKING:
    from vlv.models.caption_decoder import Caption
    from vlv.verification.verifier import SentenceSupport

# Why an image is refused that is unlike those of training, where such ones are to be skipped.
OUT_OF_DISTRIBUTION = "out_of_distribution"


@dataclass(frozen=True)
class CaptionSettings:
    """How captions are generated and mended; the defaults are the paper's: 4 beams, 300 tokens.

    A temperature of 0 searches with beams; above 0 it samples, with one beam if `num_beams` is
    None. The same seed, images and batch size give the same samples. num_return_sequences N is
    the number of captions of an image: the best N beams, or N samples. forced_start is what every
    caption begins with; banned_words do not occur in the rest, in any case.
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
        """How many texts the language model writes at once for one image."""
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


@dataclass(frozen=True)
class Captioned:
    """A caption on one line; `ended` says whether the model ended it by itself, after `tokens`.

    `others` are the further captions that were asked for, in the model's order, and `other_ends`
    what `ended` and `tokens` are of each. `in_distribution`: as of `Encoded`; the caption of an
    image that is not cannot be trusted. `sentences`: marks of the first caption, where they were
    asked for
    (`inference.verification`).
    """

    name: str
    caption: str
    ended: bool
    tokens: int
    others: tuple[str, ...] = ()
    in_distribution: bool | None = None
    sentences: "tuple[SentenceSupport, ...] | None" = None
    other_ends: tuple[tuple[bool, int], ...] = ()

    @property
    def captions(self) -> tuple[str, ...]:
        """All captions of the image, the best of the search first."""
        return (self.caption, *self.others)

    @property
    def ends(self) -> tuple[tuple[bool, int], ...]:
        """`ended` and `tokens` of all captions."""
        return ((self.ended, self.tokens), *self.other_ends)


def caption_images(
    model: VLVModel,
    sources: Iterable[Source | Refused],
    settings: CaptionSettings | None = None,
    *,
    batch_size: BatchSize = 8,
    skip_ood: bool = False,
) -> Iterator[Captioned | Refused]:
    """One result for each source, in order, as soon as its batch is done.

    An image that cannot be decoded, or for which the model writes nothing, is refused with its
    reason and stops no other; what was refused before passes through. The batch size "auto" is
    refused where captions are sampled. skip_ood: whether images unlike those of training
    are refused as `UNFAMILIAR`, and not captioned.
    """
    encoded = encode_images(model, sources, batch_size=batch_size)
    return caption_encoded(model, encoded, settings, batch_size=batch_size, skip_ood=skip_ood)


def caption_encoded(
    model: VLVModel,
    encoded: Iterable[Encoded | Refused],
    settings: CaptionSettings | None = None,
    *,
    batch_size: BatchSize = 8,
    skip_ood: bool = False,
) -> Iterator[Captioned | Refused]:
    """Captions of images that are encoded already; what was refused before passes through."""
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
    seen = model.read(torch.stack([one.z for one in encoded]))
    # Sampling draws from torch's global generator, which belongs to the caller.
    caption_decoder = (
        model.caption_decoder
    )  # loaded now: fresh layers would draw from the seeded generator
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices, enabled=settings.samples):
        if settings.samples:
            state = np.random.SeedSequence([settings.seed, number]).generate_state(1, np.uint64)
            torch.manual_seed(int(state[0]))
        made = caption_decoder.generate(seen, **settings.generation())
    each = settings.num_return_sequences
    return [
        _checked(one, made[start : start + each], settings.cleaning)
        for one, start in zip(encoded, range(0, len(made), each), strict=True)
    ]


def _checked(image: Encoded, made: "list[Caption]", cleaning: Cleaning) -> Captioned | Refused:
    """Captions that are empty once they are mended are left out."""
    mended = [(cleaning.apply(one.text, one.ended), one) for one in made]
    written = [(text, one) for text, one in mended if text]
    if not written:
        message = f"the model wrote an empty caption for {image.name}"
        return Refused(image.name, "empty-caption", message)
    (text, first), *others = written
    return Captioned(
        name=image.name,
        caption=text,
        ended=first.ended,
        tokens=first.tokens,
        others=tuple(text for text, _ in others),
        in_distribution=image.in_distribution,
        other_ends=tuple((other.ended, other.tokens) for _, other in others),
    )
