"""What requests to `/v1/vlv/*` and their answers hold. Unknown fields are refused.

An image is a data URL (`data:image/png;base64,...`), or an http(s) URL of a host that the server
was told to allow. Pictures come back as data URLs of PNGs.
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

from vlv.serving.errors import ApiError
from vlv.serving.worker.jobs import Embeddings, Info

MAX_TOKENS = 1024
MAX_BEAMS = 8
MAX_TEXT = 4000

M = TypeVar("M", bound=BaseModel)


def any_seed() -> int:
    """A seed at random, short enough to be typed."""
    return secrets.randbelow(2**32)


def _whole(value: Any) -> Any:
    # JSON knows one kind of numbers: 3.0 is as whole as 3.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _drawn(seed: int) -> int:
    return any_seed() if seed == -1 else seed


WHOLE = BeforeValidator(_whole)
Seed = Annotated[int, Field(ge=-1, lt=2**63), WHOLE, AfterValidator(_drawn)]
Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS), WHOLE]
Beams = Annotated[int, Field(ge=1, le=MAX_BEAMS), WHOLE]
Temperature = Annotated[float, Field(ge=0, le=2)]
# The limit at 0 is the likeliest token alone, as below any share that a token has.
TopP = Annotated[float, Field(ge=0, le=1), AfterValidator(lambda share: max(share, 1e-6))]
_IMAGE_SCHEMA = {"type": "string", "format": "image-url"}
ImageText = Annotated[str, WithJsonSchema(_IMAGE_SCHEMA)]
"""An image: its data URL, or a URL of a host that is allowed."""


_GIVEN = {"image": _IMAGE_SCHEMA, "z": {"type": "object"}, "text": {"type": "string"}}


def _one_of(*names: str) -> dict[str, Any]:
    """For the description: exactly one of these fields is there and not null."""
    return {
        "oneOf": [
            {
                "properties": {
                    other: _GIVEN[name] if other == name else {"type": "null"} for other in names
                },
                "required": [name],
            }
            for name in names
        ]
    }


# For the description: what `check_beams` asks for.
SEVERAL_BEAMS: dict[str, Any] = {
    "anyOf": [
        {"properties": {"num_beams": {"enum": [1, None]}}},
        {"properties": {"stream": {"enum": [False, None]}, "temperature": {"enum": [0, None]}}},
    ]
}


class Strict(BaseModel):
    """Takes no unknown fields, converts nothing, and knows finite numbers alone."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ErrorDetail(BaseModel):
    """What went wrong; `code` is stable, `param` names the field."""

    message: str
    type: str
    code: str
    param: str | None


class ErrorBody(BaseModel):
    """Every answer that is no result."""

    error: ErrorDetail


class Z(Strict):
    """Caption embeddings: base64 of little-endian float32 numbers, and their shape (Q,d)."""

    z: str = Field(max_length=20_000_000)
    shape: Annotated[
        list[Annotated[int, Field(ge=1, le=1_000_000), WHOLE]], Field(min_length=2, max_length=2)
    ]

    def array(self, info: Info) -> Embeddings:
        """The numbers, as far as they fit the model.

        Raises:
            ApiError: 400, they do not.
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
            raise _bad_z(f"z holds {len(data)} bytes, not the {4 * length * width} of its shape.")
        z = np.frombuffer(data, "<f4").astype(np.float32).reshape(length, width)
        if not np.isfinite(z).all():
            raise _bad_z("z holds numbers that are not finite.")
        return z

    @classmethod
    def of(cls, z: Embeddings) -> Self:
        """Embeddings as they are sent."""
        data = np.ascontiguousarray(z, "<f4").tobytes()
        return cls(z=base64.b64encode(data).decode(), shape=list(z.shape))


def _bad_z(message: str) -> ApiError:
    return ApiError(400, "invalid_z", message, "z")


class ImageOnly(Strict):
    """An image."""

    image: ImageText


class Source(Strict):
    """An image, or embeddings; one of both."""

    model_config = ConfigDict(json_schema_extra=_one_of("image", "z"))

    image: ImageText | None = None
    z: Z | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        return _exactly_one(self, "image", "z")


class CaptionRequest(Source):
    """One beam takes the likeliest token each time, or samples if the temperature is above 0; then
    a seed of -1 is drawn at random.
    """

    model_config = ConfigDict(json_schema_extra={**_one_of("image", "z"), **SEVERAL_BEAMS})

    num_beams: Beams = 1
    max_new_tokens: Tokens = 300
    min_new_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS), WHOLE] = 0
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
    """Raise ValueError for what a search with several beams cannot do."""
    if num_beams > 1 and stream:
        raise ValueError("A search with several beams cannot stream: send `num_beams` 1")
    if num_beams > 1 and temperature > 0:
        raise ValueError("A temperature above 0 samples, with one beam: send `num_beams` 1")


class CaptionAnswer(BaseModel):
    """A caption of so many tokens; "length" means that it was cut at max_new_tokens.

    `in_distribution` says whether the image is of the kind that the model was trained on, and
    `out_of_distribution` that it is not: then do not rely on the caption. Both are null if the
    model cannot tell.
    """

    caption: str
    tokens: int
    finish_reason: Literal["stop", "length"]
    in_distribution: bool | None
    out_of_distribution: bool | None


class CaptionPiece(BaseModel):
    """The next piece of a caption that is streamed."""

    text: str


class DrawSettings(Strict):
    """How a picture is drawn; the same seed and settings give the same picture. A seed of -1 is
    drawn at random, and the answer has it.
    """

    guidance_scale: Annotated[float, Field(ge=1, le=50)] = 2.0
    num_inference_steps: Annotated[int, Field(ge=1, le=1000), WHOLE] = 50
    scheduler: Literal["ddim", "ddpm", "dpm++", "euler"] = "ddim"
    seed: Seed = 0


class ReconstructRequest(DrawSettings):
    """An image, embeddings, or a text, which is drawn as the text-to-image model does."""

    model_config = ConfigDict(json_schema_extra=_one_of("image", "z", "text"))

    image: ImageText | None = None
    z: Z | None = None
    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        return _exactly_one(self, "image", "z", "text")


class ComposeRequest(DrawSettings):
    """The first `keep_a` embeddings of a, then the first `keep_b` of b (paper, figure 6); with the
    order `trailing` the last `keep_b` of b.
    """

    a: Source
    b: Source
    keep_a: Annotated[int, Field(ge=0, le=1000), WHOLE]
    keep_b: Annotated[int, Field(ge=0, le=1000), WHOLE]
    order: Literal["leading", "trailing"] = "leading"


class VerifyRequest(ImageOnly):
    """A caption to be checked, sentence by sentence; more errors are found at a higher rate of
    false alarms.
    """

    caption: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    false_alarm_rate: Annotated[float, Field(ge=0, le=1)] = 0.05


class SentenceAnswer(BaseModel):
    """A sentence, caption[start:end], and whether the image supports it.

    `verdict` says the same as `supported`, or that it cannot be judged, and then `reason` why; what
    was not measured then is null. score: the lower the more doubtful. probability: that it is true.
    better: what would explain the image better; null if nothing does.
    """

    text: str
    start: int
    end: int
    score: float | None
    probability: float | None
    supported: bool | None
    better: str | None
    verdict: Literal["supported", "unsupported", "cannot_judge"]
    reason: str | None


class VerifyAnswer(BaseModel):
    """The sentences of the caption, in order."""

    sentences: list[SentenceAnswer]
    false_alarm_rate: float


class PictureAnswer(BaseModel):
    """A picture, and the seed that it was drawn with."""

    image: str
    seed: int


class SceneAnswer(BaseModel):
    """A scene of the embedded world, and its true caption."""

    image: str
    caption: str
    seed: int


class InfoAnswer(BaseModel):
    """The model; keep_a + keep_b is at most max_keep."""

    model: str
    queries: int
    max_keep: int
    can_draw: bool
    can_verify: bool
    image_size: int


class Health(BaseModel):
    """The state of the server; `reason` says why it is not ready."""

    status: Literal["ok", "not ready"]
    reason: str | None = None


def _exactly_one(request: M, *names: str) -> M:
    if sum(getattr(request, name) is not None for name in names) != 1:
        raise ValueError(f"Give exactly one of {', '.join(names)}")
    return request
