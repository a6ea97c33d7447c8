"""Schemas of the requests to `/v1/vlv/*` and of their responses. Unknown fields are refused.

An image is a data URL (`data:image/png;base64,...`), or an http(s) URL of a host that the server
is configured to allow. Generated images are data URLs of PNGs.
"""

import base64
import binascii
import secrets
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from vlv.models.config import CAPTION_START, NUM_INFERENCE_STEPS, SchedulerName
from vlv.serving.errors import ApiError
from vlv.serving.worker.jobs import Embeddings, ModelInfo
from vlv.verification.verdicts import SentenceSupport, Verdict, why

MAX_TOKENS = 1024
MAX_BEAMS = 8
MAX_TEXT = 4000

M = TypeVar("M", bound=BaseModel)


def random_seed() -> int:
    """A random seed, short enough to type."""
    return secrets.randbelow(2**32)


def _integral(value: Any) -> Any:
    # JSON has one type of number: 3.0 is an integer as well.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _resolve_seed(seed: int) -> int:
    return random_seed() if seed == -1 else seed


INTEGRAL = BeforeValidator(_integral)
Seed = Annotated[int, Field(ge=-1, lt=2**63), INTEGRAL, AfterValidator(_resolve_seed)]
TokenCount = Annotated[int, Field(ge=1, le=MAX_TOKENS), INTEGRAL]
Beams = Annotated[int, Field(ge=1, le=MAX_BEAMS), INTEGRAL]
Temperature = Annotated[float, Field(ge=0, le=2)]
# 0 means the most likely token only, as does any value below the share of every token.
TopP = Annotated[float, Field(ge=0, le=1), AfterValidator(lambda share: max(share, 1e-6))]
_IMAGE_SCHEMA = {"type": "string", "format": "image-url"}
ImageText = Annotated[str, WithJsonSchema(_IMAGE_SCHEMA)]
"""An image: its data URL, or a URL of an allowed host."""
_FIELD_SCHEMAS = {"image": _IMAGE_SCHEMA, "z": {"type": "object"}, "text": {"type": "string"}}


def _one_of(*names: str) -> dict[str, Any]:
    """JSON schema: exactly one of these fields is present and not null."""
    return {
        "oneOf": [
            {
                "properties": {
                    other: _FIELD_SCHEMAS[name] if other == name else {"type": "null"}
                    for other in names
                },
                "required": [name],
            }
            for name in names
        ]
    }


def _source_of_drawing() -> dict[str, Any]:
    """JSON schema of the rules in `ReconstructRequest`."""
    schema = _one_of("image", "z", "text")
    schema["oneOf"][-1]["properties"]["caption"] = {"type": "null"}
    return schema


# JSON schema of the rule in `check_beams`.
SEVERAL_BEAMS: dict[str, Any] = {
    "anyOf": [
        {"properties": {"num_beams": {"enum": [1, None]}}},
        {
            "properties": {
                "stream": {"enum": [False, None]},
                "temperature": {"enum": [0, None]},
                "do_sample": {"enum": [False, None]},
            }
        },
    ]
}


class Strict(BaseModel):
    """Refuses unknown fields and numbers that are not finite, and converts no types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ErrorDetail(BaseModel):
    """The error; `code` is stable, `param` names the field."""

    message: str
    type: str
    code: str
    param: str | None


class ErrorBody(BaseModel):
    """The body of every error response."""

    error: ErrorDetail


class OllamaError(BaseModel):
    """The body of error responses of Ollama's API: the message, beside our code and field."""

    error: str
    code: str
    param: str | None


class Z(Strict):
    """Caption embeddings: base64 of little-endian float32 numbers, and their shape (Q,d)."""

    z: str = Field(max_length=20_000_000)
    shape: Annotated[
        list[Annotated[int, Field(ge=1, le=1_000_000), INTEGRAL]], Field(min_length=2, max_length=2)
    ]

    def array(self, info: ModelInfo) -> Embeddings:
        """The embeddings as an array.

        Raises:
            ApiError: 400, they are damaged or do not fit the model.
        """
        length, width = self.shape
        if length > info.max_keep or width != info.width:
            raise _bad_z(
                f"The model takes up to {info.max_keep} embeddings of width {info.width}, not "
                f"{length} of width {width}."
            )
        try:
            data = base64.b64decode(self.z, validate=True)
        except (binascii.Error, ValueError) as error:
            raise _bad_z("The base64 of z is damaged.") from error
        if len(data) != 4 * length * width:
            raise _bad_z(f"z has {len(data)} bytes, but its shape needs {4 * length * width}.")
        z = np.frombuffer(data, "<f4").astype(np.float32).reshape(length, width)
        if not np.isfinite(z).all():
            raise _bad_z("z contains numbers that are not finite.")
        return z

    @classmethod
    def of(cls, z: Embeddings) -> Self:
        """Embeddings as a response."""
        data = np.ascontiguousarray(z, "<f4").tobytes()
        return cls(z=base64.b64encode(data).decode(), shape=list(z.shape))


def _bad_z(message: str) -> ApiError:
    return ApiError(400, "invalid_z", message, "z")


class ImageRequest(Strict):
    """An image."""

    image: ImageText


NumQueries = Annotated[int, Field(ge=1, le=1000), INTEGRAL]
"""So many first embeddings of an image are used; null means all."""


class EncodeRequest(ImageRequest):
    """An image, of whose embeddings the first `num_queries` are wanted, or all."""

    num_queries: NumQueries | None = None


class Source(Strict):
    """Either an image or embeddings."""

    model_config = ConfigDict(json_schema_extra=_one_of("image", "z"))

    image: ImageText | None = None
    z: Z | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        return _exactly_one(self, "image", "z")


class CaptionRequest(Source):
    """One beam takes the most likely token each time, or samples if the temperature is above 0.

    Several beams are a beam search. A seed of -1 is replaced by a random one. With `num_queries`
    only the first so many embeddings are read.
    """

    model_config = ConfigDict(json_schema_extra={**_one_of("image", "z"), **SEVERAL_BEAMS})

    num_queries: NumQueries | None = None
    num_beams: Beams = 1
    max_new_tokens: TokenCount = 300
    min_new_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS), INTEGRAL] = 0
    temperature: Temperature = 0.0
    top_p: TopP = 1.0
    seed: Seed = 0
    stream: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError("`min_new_tokens` must not be above `max_new_tokens`")
        check_beams(self.num_beams, self.temperature, self.stream)
        return self


def check_beams(num_beams: int, temperature: float, stream: bool) -> None:
    """Raise ValueError for options that a beam search does not support."""
    if num_beams > 1 and stream:
        raise ValueError("A beam search cannot stream: send `num_beams` 1")
    if num_beams > 1 and temperature > 0:
        raise ValueError("A temperature above 0 needs one beam: send `num_beams` 1")


FinishReason = Literal["stop", "length"]


class CaptionAnswer(BaseModel):
    """A caption, its number of tokens, and why it ended: "length" means at max_new_tokens.

    If `out_of_distribution` is true, the image is unlike the training images: do not rely on the
    caption. `in_distribution` is the opposite. Both are null if the model has no
    out-of-distribution detector.
    """

    caption: str
    tokens: int
    finish_reason: FinishReason
    in_distribution: bool | None
    out_of_distribution: bool | None
    # The name of `in_distribution` in version 0.1.
    familiar: Annotated[bool | None, Field(deprecated="Use `in_distribution`.")]


class CaptionPiece(BaseModel):
    """The next piece of a streamed caption."""

    text: str


class SamplingFields(Strict):
    """Settings of the diffusion sampler. The same seed and settings give the same image.

    A seed of -1 is replaced by a random one, which the response contains.
    """

    guidance_scale: Annotated[float, Field(ge=1, le=50)] = 2.0
    num_inference_steps: Annotated[int, Field(ge=1, le=1000), INTEGRAL] = NUM_INFERENCE_STEPS
    scheduler: SchedulerName | None = None
    seed: Seed = 0
    stream: bool = False


class ReconstructRequest(SamplingFields):
    """An image, embeddings, or a text, from which the text-to-image model generates an image.

    With `num_queries` only the first so many embeddings are used; a text has none. A `caption`
    takes the place of the embeddings in the last steps, after the share `caption_start` of the
    denoising.
    """

    model_config = ConfigDict(json_schema_extra=_source_of_drawing())

    image: ImageText | None = None
    z: Z | None = None
    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)] | None = None
    num_queries: NumQueries | None = None
    caption: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)] | None = None
    caption_start: Annotated[float, Field(gt=0, lt=1)] = CAPTION_START

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = self.model_fields_set
        if self.text is not None and self.num_queries is not None:
            raise ValueError("A text has no embeddings: leave `num_queries` out")
        if "caption_start" in given and self.caption is None:
            raise ValueError("`caption_start` is about `caption`: send that too, or leave it out")
        if self.text is not None and self.caption is not None:
            raise ValueError("Give `caption` with an image or with z, and `text` alone")
        return _exactly_one(self, "image", "z", "text")


class ComposeRequest(SamplingFields):
    """The first `keep_a` embeddings of a, then the first `keep_b` of b (paper, figure 6).

    With the order `trailing`, the last `keep_b` embeddings of b.
    """

    a: Source
    b: Source
    keep_a: Annotated[int, Field(ge=0, le=1000), INTEGRAL]
    keep_b: Annotated[int, Field(ge=0, le=1000), INTEGRAL]
    order: Literal["leading", "trailing"] = "leading"


def _with_text(caption: str) -> str:
    if not caption.strip():
        raise ValueError("`caption` has no text")
    return caption


class VerifyRequest(ImageRequest):
    """A caption to verify, sentence by sentence. A higher false alarm rate finds more errors."""

    caption: Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_with_text)]
    false_alarm_rate: Annotated[float, Field(ge=0, le=1)] = 0.05


class SentenceAnswer(BaseModel):
    """A sentence, caption[start:end], and whether the image supports it.

    verdict: the same as `supported`, or that the sentence cannot be judged; `reason` says why, and
    values that were not measured are null. score: a lower score means less support. probability:
    that the sentence is true. better: an alternative that explains the image better, or null.
    """

    text: str
    start: int
    end: int
    score: float | None
    probability: float | None
    supported: bool | None
    better: str | None
    verdict: Verdict
    reason: str | None

    @classmethod
    def of(cls, caption: str, sentence: SentenceSupport) -> Self:
        """The verdict on a sentence of the caption."""
        better = None if sentence.better is None else why(caption, sentence)
        return cls.model_validate({**vars(sentence), "better": better})


class VerifyAnswer(BaseModel):
    """The sentences of the caption, in order."""

    sentences: list[SentenceAnswer]
    false_alarm_rate: float


class DrawingStep(BaseModel):
    """The number of denoising steps that a streamed image has had, of all its steps."""

    step: int
    steps: int


class ImageAnswer(BaseModel):
    """A generated image, and its seed."""

    image: str
    seed: int


class SceneAnswer(BaseModel):
    """A scene of the embedded world, and its true caption."""

    image: str
    caption: str
    seed: int


class InfoAnswer(BaseModel):
    """The model; keep_a + keep_b may be at most max_keep, and `takes_late_captions` is whether it
    draws from embeddings and a `caption` together.

    `knows` is what its model card or its `vlv.json` says of the images that it was trained on.
    """

    model: str
    queries: int
    max_keep: int
    can_draw: bool
    can_verify: bool
    takes_late_captions: bool
    image_size: int
    knows: str


class Health(BaseModel):
    """The state of the server; `reason` says why it is not ready."""

    status: Literal["ok", "not ready"]
    reason: str | None = None


def _exactly_one(request: M, *names: str) -> M:
    if sum(getattr(request, name) is not None for name in names) != 1:
        raise ValueError(f"Give exactly one of {', '.join(names)}")
    return request
