"""Requests of OpenAI's Responses API, as far as a caption model supports them.

As with chat completions, the images of the last user message with images are captioned, and texts
and instructions are ignored. This server stores nothing, so nothing can be continued.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from vlv.serving.api.chat_schemas import StreamOptions, TextFormat
from vlv.serving.api.generation import (
    Generation,
    ImageAt,
    Lenient,
    Limit,
    last_images,
    tokens_of,
)
from vlv.serving.api.ignored_fields import IgnoredFields
from vlv.serving.api.layouts import PLAIN, Layout, layout_of
from vlv.serving.api.schemas import INTEGRAL, ImageText

_STATELESS = "This server stores no responses: leave `{}` out, and send all input."
UNSUPPORTED = {
    "previous_response_id": _STATELESS.format("previous_response_id"),
    "conversation": _STATELESS.format("conversation"),
    "background": "This server answers at once: leave `background` out, or send false.",
    "prompt": "This server has no prompt templates: leave `prompt` out.",
    "tool_choice": "This model calls no tools: leave `tool_choice` out, or send none or auto.",
    "top_logprobs": "This server returns no `top_logprobs`: leave it out, or send 0.",
    "text": "This model writes plain text or fills a schema of one string: leave `text.format` "
    'out, or send {"type": "text"} or {"type": "json_schema", ...}.',
}


class InputImage(Lenient):
    """An image; uploaded files (`file_id`) do not exist here."""

    type: Literal["input_image"]
    image_url: ImageText


class OtherPart(Lenient):
    """A text, a refusal or a file, which are ignored."""

    type: Literal["input_text", "output_text", "refusal", "input_file", "input_audio", "text"]


InputPart = Annotated[InputImage | OtherPart, Field(discriminator="type")]


class InputMessage(Lenient):
    """A message; only its images are used."""

    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[InputPart] | None = None

    def images(self, param: str) -> list[ImageAt]:
        """Its images, in order; param: its own place."""
        parts = self.content if isinstance(self.content, list) else []
        return [
            ImageAt(part.image_url, f"{param}.content[{at}].image_url")
            for at, part in enumerate(parts)
            if isinstance(part, InputImage)
        ]


class OtherItem(Lenient):
    """A reasoning, a call of a tool or its output, which are ignored."""

    type: Literal[
        "reasoning",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "item_reference",
        "compaction",
    ]


class SchemaFormat(Lenient):
    """JSON of a schema with one text; `name` and `strict` change nothing."""

    type: Literal["json_schema"]
    # As `schema`, which pydantic's models have a method of.
    json_schema: dict[str, Any] = Field(alias="schema")


class TextSettings(Lenient):
    """The format of the text; `verbosity` has no effect."""

    format: Annotated[TextFormat | SchemaFormat, Field(discriminator="type")] | None = None


_NO_IMAGE = 'The input must contain an image, as the part {"type": "input_image", "image_url": ...}'


def _is_no_text(value: Any) -> Any:
    # Of OpenAI's two forms of input, only the list can have an image.
    if isinstance(value, str):
        raise ValueError(_NO_IMAGE)
    return value


def _without_logprobs(names: list[str]) -> list[str]:
    # Of all else there is nothing to include: no tool is called.
    if "message.output_text.logprobs" in names:
        raise ValueError(
            "This server returns no logprobs: leave `message.output_text.logprobs` out of `include`"
        )
    return names


# JSON schema: some message has an image.
_IMAGE = {
    "type": "object",
    "properties": {"type": {"const": "input_image"}},
    "required": ["type"],
}
_IMAGES = {"properties": {"content": {"type": "array", "contains": _IMAGE}}}
_WITH_IMAGE: dict[str, Any] = {"contains": {**_IMAGES, "required": ["content", "role"]}}


class ResponsesRequest(Generation, IgnoredFields):
    """A request for captions. Any `model` is accepted, since the server has one."""

    model_config = ConfigDict(extra="allow")
    # Unknown fields request nothing if they are null.
    __pydantic_extra__: dict[str, None] = Field(init=False)

    model: str | None = None
    input: Annotated[
        list[InputMessage | OtherItem],
        Field(min_length=1, json_schema_extra=_WITH_IMAGE),
        BeforeValidator(_is_no_text),
    ]
    instructions: str | None = None
    max_output_tokens: Limit | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    text: TextSettings | None = None
    include: Annotated[list[str], AfterValidator(_without_logprobs)] | None = None
    max_tool_calls: Annotated[int, Field(ge=0), INTEGRAL] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    # Refused if they request something.
    background: Literal[False] | None = None
    previous_response_id: None = None
    conversation: None = None
    prompt: None = None
    tool_choice: Literal["none", "auto"] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0), INTEGRAL] | None = None

    @model_validator(mode="after")
    def _has_image(self) -> Self:
        if not self.images():
            raise ValueError(_NO_IMAGE)
        return self

    def images(self) -> list[ImageAt]:
        """The images of the last user message that has some."""
        return last_images(
            (one.role, one.images(f"input[{at}]"))
            for at, one in enumerate(self.input)
            if isinstance(one, InputMessage)
        )

    def limits(self) -> tuple[int, int]:
        """The smallest and the largest number of tokens."""
        return 0, tokens_of(self.max_output_tokens)

    def layout(self) -> Layout:
        """How the captions are laid out.

        Raises:
            ApiError: 400, they do not fill the schema.
        """
        asked = self.text.format if self.text else None
        return layout_of(asked.json_schema, "text") if isinstance(asked, SchemaFormat) else PLAIN

    def ignored(self) -> list[str]:
        """Names of the fields that request something that is not done."""
        # A client that leaves `store` out gets a response that is stored by OpenAI.
        return [one for one in super().ignored() if one != "store"]


class OutputText(BaseModel):
    """The captions."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[None] = []
    logprobs: list[None] = []


class OutputMessage(BaseModel):
    """The only item of a response."""

    id: str
    type: Literal["message"] = "message"
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class IncompleteDetails(BaseModel):
    """Why a response was cut."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class TokenDetails(BaseModel):
    """Tokens of kinds that this server has none of."""

    cached_tokens: Literal[0] = 0
    cache_write_tokens: Literal[0] = 0


class OutputTokenDetails(BaseModel):
    """Tokens of kinds that this server has none of."""

    reasoning_tokens: Literal[0] = 0


class ResponseUsage(BaseModel):
    """Number of embeddings that the language model read, and of tokens that it wrote."""

    input_tokens: int
    input_tokens_details: TokenDetails = TokenDetails()
    output_tokens: int
    output_tokens_details: OutputTokenDetails = OutputTokenDetails()
    total_tokens: int


class ResponseBody(BaseModel):
    """A response, whole or in progress; `model` is the model that wrote it.

    `out_of_distribution` is not a field of OpenAI: if it is true, an image is unlike the training
    images. It is null while the response is in progress, or if the model has no detector.
    """

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete"]
    model: str
    output: list[OutputMessage] = []
    error: None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: None = None
    metadata: dict[str, str] = {}
    parallel_tool_calls: Literal[True] = True
    temperature: float
    tool_choice: Literal["none"] = "none"
    tools: list[None] = []
    top_p: float
    max_output_tokens: int
    store: Literal[False] = False
    usage: ResponseUsage | None = None
    out_of_distribution: bool | None = None
