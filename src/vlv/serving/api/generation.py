"""What requests of several APIs have in common: which images of a conversation are captioned, and
how captions are written, under the same names.

Null requests nothing. What the language model can do is done; a beam search follows no sampling
and no penalties, so they count as ignored there.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vlv.inference.engines.sampling import TokenRules
from vlv.serving.api.schemas import (
    INTEGRAL,
    MAX_TOKENS,
    Beams,
    Temperature,
    TopP,
    check_beams,
    random_seed,
)
from vlv.serving.errors import ApiError
from vlv.serving.worker.jobs import CaptionJob, Embeddings, Pixels

DEFAULT_TOKENS = 300
MAX_CAPTIONS = 16
"""Captions of one request: its images times its answers."""
MAX_STOP_TEXTS = 16

Limit = Annotated[int, Field(ge=-1, lt=2**64), INTEGRAL]
AnySeed = Annotated[int, Field(ge=-(2**63), lt=2**64), INTEGRAL]
TopK = Annotated[int, Field(ge=-1, lt=2**63), INTEGRAL]
Share = Annotated[float, Field(ge=0, le=1)]
RepetitionPenalty = Annotated[float, Field(gt=0, le=10)]
# OpenAI's own range, and that of vLLM.
AdditivePenalty = Annotated[float, Field(ge=-2, le=2)]
StopText = Annotated[str, Field(max_length=500)]
StopTexts = StopText | Annotated[list[StopText], Field(max_length=MAX_STOP_TEXTS)]
PositiveTokens = Annotated[int, Field(ge=0, lt=2**63), INTEGRAL]

# A beam search follows none of them.
_SAMPLING = ("top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")


class Lenient(BaseModel):
    """Accepts further fields, which have no effect."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Generation(BaseModel):
    """Fields of a request that say how a caption is written; temperature 0 is the default.

    A seed of -1 or null is replaced by a random one.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: AnySeed | None = None
    top_k: TopK | None = None
    min_p: Share | None = None
    repetition_penalty: RepetitionPenalty | None = None
    presence_penalty: AdditivePenalty | None = None
    frequency_penalty: AdditivePenalty | None = None
    stop: StopTexts | None = None

    def rules(self) -> TokenRules:
        """What applies to each token."""
        return TokenRules(
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
        )

    def stops(self) -> tuple[str, ...]:
        """The texts before which a caption ends."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(filter(None, stop))

    def beams(self) -> int:
        """Number of beams."""
        return 1

    def limits(self) -> tuple[int, int]:
        """The smallest and the largest number of tokens."""
        return 0, DEFAULT_TOKENS

    def warmth(self) -> float:
        """The temperature."""
        return self.temperature or 0.0

    def jobs(
        self, sources: Sequence[Pixels | Embeddings], stream: bool, answers: int = 1
    ) -> list[list[CaptionJob]]:
        """The captions of each answer, one for each source; each has a seed of its own."""
        seed = random_seed() if self.seed is None or self.seed == -1 else self.seed
        shortest, longest = self.limits()
        return [
            [
                CaptionJob(
                    source,
                    self.beams(),
                    longest,
                    min(shortest, longest),
                    self.warmth(),
                    1.0 if self.top_p is None else self.top_p,
                    (seed + answer * len(sources) + at) % 2**63,
                    stream,
                    rules=self.rules(),
                    stop=self.stops(),
                )
                for at, source in enumerate(sources)
            ]
            for answer in range(answers)
        ]


def check_count(images: int, answers: int) -> None:
    """Raise ApiError, 400, for more captions than one request may ask for."""
    if images * answers > MAX_CAPTIONS:
        raise ApiError(
            400,
            "too_many_captions",
            f"One request may ask for {MAX_CAPTIONS} captions, not {images * answers}; "
            "send several requests.",
        )


def tokens_of(limit: int | None, default: int = DEFAULT_TOKENS) -> int:
    """The number of tokens that a limit means: at most 1,024, which 0 and -1 mean as well."""
    if limit is None:
        return default
    return MAX_TOKENS if limit < 1 else min(limit, MAX_TOKENS)


class ImageAt(NamedTuple):
    """The URL of an image, and its place in the request for error messages."""

    url: str
    param: str


def last_images(messages: Iterable[tuple[str, list[ImageAt]]]) -> list[ImageAt]:
    """What a conversation asks to caption: the images of the last user message that has some, or
    else of the last message that has some. messages: the role and the images of each.
    """
    with_images = [(role, images) for role, images in messages if images]
    of_users = [images for role, images in with_images if role == "user"]
    return (of_users or [images for _, images in with_images] or [[]])[-1]


class HuggingFaceNames(Generation):
    """The same under the names that `generate` of transformers and KoboldCpp have for it.

    With `do_sample` false, the temperature has no effect; with true, it is 1 unless it is given.
    """

    num_beams: Beams | None = None
    do_sample: bool | None = None
    max_new_tokens: Limit | None = None
    min_new_tokens: PositiveTokens | None = None
    min_tokens: PositiveTokens | None = None
    rep_pen: RepetitionPenalty | None = None
    repeat_penalty: RepetitionPenalty | None = None

    @model_validator(mode="after")
    def _beams_fit(self) -> Self:
        check_beams(self.beams(), self.warmth(), self.streams())
        return self

    def streams(self) -> bool:
        """Whether the answer is streamed."""
        return False

    def beams(self) -> int:
        """Number of beams."""
        return self.num_beams or 1

    def limits(self) -> tuple[int, int]:
        """The smallest and the largest number of tokens."""
        return self.min_tokens or self.min_new_tokens or 0, tokens_of(self.max_new_tokens)

    def warmth(self) -> float:
        """The temperature; 0 without sampling."""
        if self.do_sample is None:
            return self.temperature or 0.0
        default = 1.0 if self.temperature is None else self.temperature
        return default if self.do_sample else 0.0

    def rules(self) -> TokenRules:
        """What applies to each token."""
        penalties = (self.repetition_penalty, self.repeat_penalty, self.rep_pen)
        given = next((one for one in penalties if one is not None), None)
        named = self.model_copy(update={"repetition_penalty": given})
        return Generation.rules(named)

    def without_effect(self) -> list[str]:
        """Names of the fields that a beam search does not follow."""
        if self.beams() == 1:
            return []
        rules, none = self.rules(), TokenRules()
        return [name for name in _SAMPLING if getattr(rules, name) != getattr(none, name)]
