"""What crosses the pipe between the HTTP process and the worker that owns the model.

Plain data, so that neither side needs the other's libraries. A job that is done again gives the
same result, since everything random in it comes from its seed.

Shapes: S the encoder's image size, Q embeddings, d their width.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""(S,S,3), as the encoder sees an image."""
Embeddings = NDArray[np.float32]
"""z (Q,d)."""


@dataclass
class CaptionJob:
    """A caption; temperature 0 takes the likeliest tokens.

    `stream` asks for `Tokens` while it is written. `written` are the tokens that were told before
    the worker died: it goes on after them.
    """

    source: Pixels | Embeddings
    num_beams: int
    max_new_tokens: int
    min_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    stream: bool
    written: tuple[int, ...] = ()


@dataclass
class EncodeJob:
    """Caption embeddings of an image."""

    source: Pixels


@dataclass(frozen=True)
class Drawing:
    """How a picture is drawn; pictures of equal settings are drawn together."""

    guidance_scale: float
    num_inference_steps: int
    scheduler: str


@dataclass
class Part:
    """The first `keep` embeddings of an image, or with `last` the last ones."""

    source: Pixels | Embeddings
    keep: int
    last: bool = False


@dataclass
class DrawJob:
    """A picture of a text, or of the embeddings of one image or several, one after another."""

    source: str | tuple[Part, ...]
    drawing: Drawing
    seed: int


@dataclass
class VerifyJob:
    """Marks of a caption; `picture` (D,D,3) is the image as the diffusion decoder sees it."""

    source: Pixels
    picture: Pixels
    caption: str
    false_alarm_rate: float


Job = CaptionJob | EncodeJob | DrawJob | VerifyJob


@dataclass(frozen=True)
class Info:
    """The model as clients need to know it; `crop_size` as in the encoder's settings."""

    model: str
    queries: int
    width: int
    max_keep: int
    can_caption: bool
    can_draw: bool
    can_verify: bool
    image_size: int
    crop_size: int | None
    decoder_size: int
    max_steps: int


@dataclass(frozen=True)
class Ready:
    """The worker has its model in memory."""

    info: Info


@dataclass(frozen=True)
class CannotStart:
    """There is no such model, or it is damaged."""

    message: str


@dataclass(frozen=True)
class Started:
    """A job waits no longer."""

    id: int


@dataclass(frozen=True)
class Tokens:
    """What a streamed caption goes on with: its next tokens, and the text that they complete."""

    id: int
    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Caption:
    """A whole caption; `ended` says whether the model closed it itself."""

    text: str
    tokens: int
    ended: bool
    in_distribution: bool | None = None


@dataclass(frozen=True)
class Mark:
    """What the picture says of a sentence, caption[start:end]; as of `SentenceSupport`."""

    text: str
    start: int
    end: int
    score: float | None
    probability: float | None
    supported: bool | None
    better: str | None
    verdict: Literal["supported", "unsupported", "cannot_judge"]
    reason: str | None


Marks = tuple[Mark, ...]
Result = Caption | Embeddings | Pixels | Marks


@dataclass(frozen=True)
class Done:
    """A job's result."""

    id: int
    result: Result


@dataclass(frozen=True)
class Failed:
    """A job that cannot be done; `code` is of the HTTP contract, `param` the field at fault."""

    id: int
    status: int
    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True)
class Heartbeat:
    """The worker's process runs; `steps` grows as long as it is `busy` and gets on."""

    steps: int
    busy: bool


Event = Ready | CannotStart | Heartbeat | Started | Tokens | Done | Failed


@dataclass(frozen=True)
class Submit:
    """A job for the worker."""

    id: int
    job: Job


@dataclass(frozen=True)
class Cancel:
    """Nobody waits for a job any more."""

    id: int


Command = Submit | Cancel
