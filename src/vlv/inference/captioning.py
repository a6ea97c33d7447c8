"""Images -> captions, batch by batch (paper, stage 2): one result for each image, in order.

`vlv caption`, bulk jobs and `VLV.caption` all come here. Where captions are written is decided
elsewhere.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlv.errors import ConfigError
from vlv.inference.batching import Batches, BatchSize
from vlv.inference.encoding import encode_images
from vlv.inference.engines.engine import CaptionEngine
from vlv.inference.engines.prompts import Prompts
from vlv.inference.engines.sampling import Sampling
from vlv.inference.engines.transformers import TransformersEngine
from vlv.inference.engines.writing import Prompted, write_captions
from vlv.inference.postprocess import Cleaning
from vlv.inference.records import Captioned, Encoded, ImageInput, Refused
from vlv.models.numbers import real_number, whole_number
from vlv.models.outputs import Caption
from vlv.models.seeds import kept_generators
from vlv.models.vlv import VLVModel, first_queries

# Settings that are whole numbers, or None where that is allowed, and other numbers.
_WHOLE = (
    "num_beams",
    "num_return_sequences",
    "max_new_tokens",
    "min_new_tokens",
    "seed",
    "num_queries",
)
_REAL = ("temperature", "top_p")
# The reason of an out-of-distribution image that is refused because such images are skipped.
OUT_OF_DISTRIBUTION = "out_of_distribution"


@dataclass(frozen=True)
class CaptionSettings:
    """How captions are generated and cleaned; the defaults are the paper's: 4 beams, 300 tokens.

    A temperature of 0 searches with beams. Above 0 tokens are sampled, with one beam if
    `num_beams` is None. The samples of an image depend on the seed and on its number among the
    images, not on the batch size; those of several beams do depend on it.
    num_return_sequences N gives N captions for each image: the best N beams, or N samples. Every
    caption begins with forced_start, and banned_words do not occur in the rest, in upper or lower
    case. num_queries: read only the first so many embeddings of each image.
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
    num_queries: int | None = None
    cleaning: Cleaning = field(default_factory=Cleaning)

    def __post_init__(self) -> None:
        self._take_numbers()
        if self.num_beams is not None and self.num_beams < 1:
            raise ConfigError(f"num_beams must be 1 or more, not {self.num_beams}")
        if not 0 <= self.temperature < math.inf:  # NaN is refused too
            raise ConfigError(f"temperature must be 0 or more, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.top_p < 1 and not self.samples:
            raise ConfigError("top_p has no effect without sampling; set a temperature above 0")
        if self.seed < 0:
            raise ConfigError(f"seed must be 0 or more, not {self.seed}")
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be 1 or more, not {self.max_new_tokens}")
        start: Any = self.forced_start
        if not isinstance(start, str):
            raise ConfigError(f"forced_start must be a text, not {start!r}")
        banned: Any = self.banned_words
        if isinstance(banned, str):  # its letters would be banned
            raise ConfigError(
                f"banned_words are several words, such as ['cat', 'dog'], not the text {banned!r}"
            )
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

    def _take_numbers(self) -> None:
        """Make numbers Python's own, as a job records them. Raises ConfigError for what is none."""
        for name in _WHOLE:
            value = getattr(self, name)
            if value is not None or name not in ("num_beams", "num_queries"):
                object.__setattr__(self, name, whole_number(name, value))
        for name in _REAL:
            object.__setattr__(self, name, real_number(name, getattr(self, name)))

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

    @property
    def searches(self) -> bool:
        """Whether captions are searched with beams, which no engine but transformers does."""
        return self.beams > 1

    def check_auto(self) -> None:
        """Raise ConfigError where captions would depend on the batch size that "auto" finds."""
        if self.searches and self.samples:
            raise ConfigError(
                "samples of several beams depend on the batch size, so that auto would make them "
                "depend on the memory that is free; give a number, or one beam"
            )

    def sampling(self, number: int) -> Sampling:
        """How an engine chooses the tokens of an image, by its number."""
        return Sampling(
            max_new_tokens=self.max_new_tokens,
            min_new_tokens=self.min_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=_seed(self.seed, number) if self.samples else 0,
            sequences=self.num_return_sequences,
            forced_start=self.forced_start,
            banned_words=self.banned_words,
        )

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
    engine: CaptionEngine | None = None,
    prompts: Prompts | None = None,
) -> Iterator[Captioned | Refused]:
    """One result for each image, in order.

    With beams a batch is done as a whole. With one beam `batch_size` images are written at once,
    and an image whose caption has ended makes room for the next one. An image that cannot be
    decoded, or for which the model writes nothing, is refused with its reason, and the others go
    on; earlier refusals pass through. skip_ood: refuse images that are out of distribution as
    `OUT_OF_DISTRIBUTION` instead of captioning them. engine, prompts: what writes the captions in
    place of the model's caption decoder; the caller closes it.

    Raises:
        ConfigError: the batch size is "auto" and several beams are sampled, an engine is to search
            with beams, or the model has fewer queries than num_queries.
    """
    num_queries = None if settings is None else settings.num_queries
    encoded = encode_images(model, images, batch_size=batch_size, num_queries=num_queries)
    return caption_encoded(
        model,
        encoded,
        settings,
        batch_size=batch_size,
        skip_ood=skip_ood,
        engine=engine,
        prompts=prompts,
    )


def caption_encoded(
    model: VLVModel,
    encoded: Iterable[Encoded | Refused],
    settings: CaptionSettings | None = None,
    *,
    batch_size: BatchSize | Batches = 8,
    skip_ood: bool = False,
    engine: CaptionEngine | None = None,
    prompts: Prompts | None = None,
) -> Iterator[Captioned | Refused]:
    """`caption_images` of images that are encoded already; `Batches` keep the size that fits."""
    if skip_ood:
        encoded = map(_refused_if_ood, encoded)
    settings = settings or CaptionSettings()
    encoded = map(partial(_shortened, settings.num_queries), encoded)
    batches = batch_size if isinstance(batch_size, Batches) else Batches(batch_size)
    if not settings.searches:
        return _written(model, encoded, settings, batches, engine, prompts)
    if engine is not None:
        raise ConfigError(
            "this engine writes token by token and cannot search with beams; set num_beams to 1"
        )
    if batches.halves:
        settings.check_auto()
    return _searched(model, encoded, settings, batches)


def _shortened(num_queries: int | None, one: Encoded | Refused) -> Encoded | Refused:
    if isinstance(one, Refused) or num_queries is None:
        return one
    return replace(one, z=first_queries(one.z[None], num_queries)[0])


def _refused_if_ood(one: Encoded | Refused) -> Encoded | Refused:
    if isinstance(one, Refused) or one.in_distribution is not False:
        return one
    message = f"{one.name} is unlike the images that this model was trained on"
    return Refused(one.name, OUT_OF_DISTRIBUTION, message)


def _written(
    model: VLVModel,
    encoded: Iterable[Encoded | Refused],
    settings: CaptionSettings,
    batches: Batches,
    engine: CaptionEngine | None,
    prompts: Prompts | None,
) -> Iterator[Captioned | Refused]:
    """Captions of one beam, by an engine."""
    prompts = prompts or Prompts.of(model.caption_decoder)
    own = None
    if engine is None:
        rows = batches.size * settings.sequences
        own = engine = TransformersEngine(model.caption_decoder, rows, halves=batches.halves)
    prompted = _prompted(model, encoded, settings, batches, prompts)
    # With one box on the device at a time, nothing is encoded before a batch is written.
    parts: Iterable[Iterable[Refused | Prompted[Encoded]]] = (
        prompted if model.offload else [chain.from_iterable(prompted)]
    )
    try:
        for part in parts:
            for one, made in write_captions(engine, prompts, part):
                yield _cleaned(one, made, settings.cleaning) if isinstance(one, Encoded) else one
    finally:
        if own is not None:
            batches.size = min(batches.size, max(1, own.max_rows // settings.sequences))
            own.close()


def _prompted(
    model: VLVModel,
    encoded: Iterable[Encoded | Refused],
    settings: CaptionSettings,
    batches: Batches,
    prompts: Prompts,
) -> Iterator[list[Refused | Prompted[Encoded]]]:
    """Batches of images with their prompts e, and of refusals."""

    def embed(some: list[Encoded]) -> list[Tensor]:
        c = model.read(torch.stack([one.z for one in some]))  # (b,Q,d_T)
        if model.offload:
            _ = model.caption_decoder  # psi and the language model move in
        return list(prompts.embed(c))

    numbers = count()
    for batch in batches.of(encoded):
        good = [one for one in batch if isinstance(one, Encoded)]
        e = iter(batches.run(embed, good))
        done: list[Refused | Prompted[Encoded]] = []
        for one in batch:
            place = next(numbers)
            if isinstance(one, Refused):
                done.append(one)
            else:
                number = place if one.number is None else one.number
                done.append(Prompted(one, next(e), settings.sampling(number)))
        yield done


def _seed(seed: int, number: int) -> int:
    """The seed of one image, in 63 bits."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0]) >> 1


def _searched(
    model: VLVModel,
    encoded: Iterable[Encoded | Refused],
    settings: CaptionSettings,
    batches: Batches,
) -> Iterator[Captioned | Refused]:
    """Captions of beam search, batch by batch."""
    for number, batch in enumerate(batches.of(encoded)):
        good = [one for one in batch if isinstance(one, Encoded)]
        captions = iter(batches.run(partial(_search, model, settings, number), good))
        for one in batch:
            yield one if isinstance(one, Refused) else next(captions)


def _search(
    model: VLVModel, settings: CaptionSettings, number: int, encoded: list[Encoded]
) -> list[Captioned | Refused]:
    read = model.read(torch.stack([one.z for one in encoded]))
    # Loaded before the seed is set: fresh layers would draw from the seeded generator.
    caption_decoder = model.caption_decoder
    # Sampling draws from torch's global generator.
    with kept_generators(model.device, enabled=settings.samples):
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
