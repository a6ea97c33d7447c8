"""The messages between the HTTP process and the worker process that owns the model.

They are plain data, so that neither side needs the other's libraries. A job that runs again gives
the same result, since everything random in it comes from its seed.

Shapes: S the encoder's image size, D the diffusion decoder's, Q embeddings, d their width.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vlv.errors import VLVError
from vlv.inference.engines.sampling import TokenRules
from vlv.models.outputs import Caption
from vlv.verification.verdicts import SentenceSupport

Pixels = NDArray[np.uint8]
"""An image (S,S,3) as the encoder sees it."""
Embeddings = NDArray[np.float32]
"""z (Q,d)."""


@dataclass
class CaptionJob:
    """Write a caption; temperature 0 takes the most likely tokens.

    `stream` asks for `Tokens` events while the caption is written. `written` are the tokens that
    were reported before a worker died: the caption continues after them. It ends before the first
    of the texts `stop`. A beam search does not follow the `rules`. `num_queries`: only the first
    so many embeddings are read.
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
    rules: TokenRules = field(default_factory=TokenRules)
    stop: tuple[str, ...] = ()
    num_queries: int | None = None


@dataclass
class EncodeJob:
    """Compute the caption embeddings of an image."""

    source: Pixels


@dataclass(frozen=True)
class SamplerSettings:
    """Settings of the diffusion sampler; images with equal settings are generated together."""

    guidance_scale: float
    num_inference_steps: int
    scheduler: str | None


@dataclass
class KeptEmbeddings:
    """The first `keep` embeddings of a source, or the last ones if `last` is set."""

    source: Pixels | Embeddings
    keep: int
    last: bool = False


@dataclass(frozen=True)
class LateCaption:
    """What an image is drawn from after the share `start` of the denoising."""

    text: str
    start: float


@dataclass
class ImageJob:
    """Generate an image from a text, or from the concatenated embeddings of one or more sources,
    whose place a late caption takes in the last steps.
    """

    source: str | tuple[KeptEmbeddings, ...]
    sampler: SamplerSettings
    seed: int
    stream: bool = False
    late: LateCaption | None = None


@dataclass
class VerifyJob:
    """Verify a caption; `decoder_pixels` (D,D,3) are the image as the diffusion decoder sees it."""

    source: Pixels
    decoder_pixels: Pixels
    caption: str
    false_alarm_rate: float


Job = CaptionJob | EncodeJob | ImageJob | VerifyJob


@dataclass(frozen=True)
class ModelInfo:
    """What the HTTP process needs to know of the model; `crop_size` is the encoder's setting,
    `knows` what its card or its provenance says of the images that it was trained on.
    """

    model: str
    queries: int
    width: int
    max_keep: int
    can_caption: bool
    can_draw: bool
    can_verify: bool
    takes_late_captions: bool
    image_size: int
    crop_size: int | None
    decoder_size: int
    max_steps: int
    knows: str


@dataclass(frozen=True)
class Ready:
    """The worker has its model in memory."""

    info: ModelInfo


@dataclass(frozen=True)
class CannotStart:
    """The model does not exist or is damaged, or a setting does not fit it."""

    error: VLVError


@dataclass(frozen=True)
class Started:
    """The worker has started a job."""

    id: int


@dataclass(frozen=True)
class Tokens:
    """The next tokens of a streamed caption, and the text that they complete."""

    id: int
    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Step:
    """The number of denoising steps that a streamed image has had."""

    id: int
    step: int


@dataclass(frozen=True)
class CaptionResult:
    """A whole caption, and whether its image is in distribution; None if that is not known."""

    caption: Caption
    in_distribution: bool | None


Verdicts = tuple[SentenceSupport, ...]
Result = CaptionResult | Embeddings | Pixels | Verdicts


@dataclass(frozen=True)
class Done:
    """The result of a job."""

    id: int
    result: Result


@dataclass(frozen=True)
class Failed:
    """A job that cannot be done; `code` is an error code of the API, `param` the wrong field."""

    id: int
    status: int
    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True)
class Heartbeat:
    """The worker process is alive; `steps` grows while it is `busy` and makes progress.

    `failing`: captions fail, because what runs the language model does; other work goes on.
    """

    steps: int
    busy: bool
    failing: bool = False


Event = Ready | CannotStart | Heartbeat | Started | Tokens | Step | Done | Failed


@dataclass(frozen=True)
class Submit:
    """A job for the worker."""

    id: int
    job: Job


@dataclass(frozen=True)
class Cancel:
    """Nobody waits for this job any more."""

    id: int


Command = Submit | Cancel
