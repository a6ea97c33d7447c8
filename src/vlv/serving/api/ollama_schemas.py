"""Requests and answers of Ollama's API, as far as a caption model supports them.

Images are base64 without a head. Texts, templates and tools are ignored, and so are fields that
Ollama does not know, as Ollama does. What has no effect is named in a header.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from vlv.inference.engines.sampling import TokenRules
from vlv.serving.api.generation import (
    Generation,
    ImageAt,
    Lenient,
    RepetitionPenalty,
    TopK,
    last_images,
    tokens_of,
)
from vlv.serving.api.layouts import PLAIN, Layout, layout_of
from vlv.serving.api.schemas import INTEGRAL, ImageText

UNSUPPORTED = {
    "format": "This model writes plain text or fills a schema of one string: leave `format` out, "
    "or send such a schema.",
    "logprobs": "This server returns no `logprobs`: leave it out, or send false.",
    "top_logprobs": "This server returns no `top_logprobs`: leave it out, or send 0.",
    "suffix": "This model completes no text: leave `suffix` out.",
}
TokenLimit = Annotated[int, Field(ge=-2, lt=2**63), INTEGRAL]
# Options of Ollama that say where a model runs, and not what it writes.
_NO_EFFECT_BY_NATURE = {"num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "use_mmap"}


class Options(Generation):
    """How a caption is written. Temperature 0 is the default here, and 0.8 in Ollama."""

    top_k: TopK | None = None
    num_predict: TokenLimit | None = None
    repeat_penalty: RepetitionPenalty | None = None

    def limits(self) -> tuple[int, int]:
        """The smallest and the largest number of tokens."""
        return 0, tokens_of(self.num_predict)

    def rules(self) -> TokenRules:
        """What applies to each token."""
        penalty = self.repeat_penalty or self.repetition_penalty
        return Generation.rules(self.model_copy(update={"repetition_penalty": penalty}))


class OllamaRequest(Lenient):
    """What both ways to ask have in common. Any `model` is accepted, since the server has one."""

    model: str | None = None
    stream: bool | None = None
    options: Options | None = None
    format: Literal[""] | dict[str, Any] | None = None
    # Refused if they request something.
    logprobs: Literal[False] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0), INTEGRAL] | None = None

    def streams(self) -> bool:
        """Whether the answer is streamed, as it is by default."""
        return self.stream is None or self.stream

    def generation(self) -> Options:
        """How captions are written."""
        return self.options or Options()

    def layout(self) -> Layout:
        """How the captions are laid out.

        Raises:
            ApiError: 400, they do not fill the schema.
        """
        return layout_of(self.format, "format") if self.format else PLAIN

    def ignored(self, sent: dict[str, Any]) -> list[str]:
        """Names of the options and tools that were sent and have no effect."""
        options = sent.get("options") or {}
        known = set(Options.model_fields) | _NO_EFFECT_BY_NATURE
        named = [name for name in options if name not in known and options[name] is not None]
        return sorted(named) + (["tools"] if sent.get("tools") else [])


def _numbered(urls: list[str] | None, param: str) -> list[ImageAt]:
    return [ImageAt(url, f"{param}[{at}]") for at, url in enumerate(urls or [])]


class OllamaMessage(Lenient):
    """A message; only its images are used."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    images: list[ImageText] | None = None

    def images_at(self, param: str) -> list[ImageAt]:
        """Its images, in order; param: its own place."""
        return _numbered(self.images, f"{param}.images")


class ChatRequest(OllamaRequest):
    """A conversation. Without messages, the answer says that the model is loaded."""

    messages: list[OllamaMessage] | None = None

    @model_validator(mode="after")
    def _has_image(self) -> Self:
        if self.messages and not self.images():
            raise ValueError("The messages must contain an image, in `images`")
        return self

    def images(self) -> list[ImageAt]:
        """The images of the last user message that has some."""
        return last_images(
            (one.role, one.images_at(f"messages[{at}]"))
            for at, one in enumerate(self.messages or [])
        )


class GenerateRequest(OllamaRequest):
    """A prompt, which is ignored, and images. Without both, the model is loaded already."""

    prompt: str | None = None
    images_: Annotated[list[ImageText] | None, Field(alias="images")] = None
    suffix: Literal[""] | None = None

    @model_validator(mode="after")
    def _has_image(self) -> Self:
        if self.prompt and not self.images():
            raise ValueError("The request must contain an image, in `images`")
        return self

    def images(self) -> list[ImageAt]:
        """The images."""
        return _numbered(self.images_, "images")


class ShowRequest(Lenient):
    """A question about the model."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None


def now() -> str:
    """The time as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Done(BaseModel):
    """The end of an answer: why it ended, times in nanoseconds, and counts of tokens.

    `out_of_distribution` is not a field of Ollama: if it is true, an image is unlike the training
    images. It is null before the end, or if the model has no detector.
    """

    model: str
    created_at: str = Field(default_factory=now)
    done: bool
    done_reason: Literal["stop", "length", "load"] | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None
    out_of_distribution: bool | None = None


class AssistantMessage(BaseModel):
    """The captions, or a piece of them."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatAnswer(Done):
    """An answer of `/api/chat`, whole or a piece of it."""

    message: AssistantMessage


class GenerateAnswer(Done):
    """An answer of `/api/generate`, whole or a piece of it."""

    response: str


class Details(BaseModel):
    """What kind of model it is."""

    parent_model: str = ""
    format: Literal["safetensors"] = "safetensors"
    family: Literal["vlv"] = "vlv"
    families: list[Literal["vlv"]] = ["vlv"]
    parameter_size: str = ""
    quantization_level: str = ""


class ListedModel(BaseModel):
    """The model in a list."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class ListedModels(BaseModel):
    """The list of models, which has one entry."""

    models: list[ListedModel]


class ShownModel(BaseModel):
    """The model and what it can do: it writes texts of images."""

    modelfile: str = ""
    parameters: str = ""
    template: str = ""
    license: str = ""
    details: Details
    model_info: dict[str, int | str]
    capabilities: list[Literal["completion", "vision"]] = ["completion", "vision"]


class Version(BaseModel):
    """The version of Ollama whose API this is; `vlv` is this server's."""

    version: str
    vlv: str
