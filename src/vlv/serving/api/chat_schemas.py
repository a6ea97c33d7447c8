"""Requests of OpenAI's chat completions, as far as a caption model supports them.

VLV follows no instructions: it captions the images of a conversation's last message with images and
ignores text. Every field of OpenAI's API is accepted at the value that requests nothing. Other
values are applied, ignored and named in a header (`ignored_fields`), or refused where the answer
would mislead the client.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from vlv.serving.api.generation import (
    MAX_CAPTIONS,
    MAX_STOP_TEXTS,
    HuggingFaceNames,
    ImageAt,
    Lenient,
    Limit,
    last_images,
    tokens_of,
)
from vlv.serving.api.ignored_fields import IgnoredFields
from vlv.serving.api.layouts import PLAIN, Layout, layout_of
from vlv.serving.api.schemas import INTEGRAL, SEVERAL_BEAMS, ImageText

UNSUPPORTED = {
    "n": f"One request may ask for 1 to {MAX_CAPTIONS} captions: send such an `n`, or none.",
    "stop": f"`stop` must be a text or a list of at most {MAX_STOP_TEXTS} texts, of up to 500 "
    "characters each.",
    "logprobs": "This server returns no `logprobs`: leave it out, or send false.",
    "top_logprobs": "This server returns no `top_logprobs`: leave it out, or send 0.",
    "tool_choice": "This model calls no tools: leave `tool_choice` out, or send none or auto.",
    "function_call": "This model calls no functions: leave `function_call` out, or send none or "
    "auto.",
    "response_format": "This model writes plain text or fills a schema of one string: leave "
    '`response_format` out, or send {"type": "text"} or {"type": "json_schema", ...}.',
    "modalities": 'This model answers with text only: leave `modalities` out, or send ["text"].',
}


class ImageURL(Lenient):
    """An image as a URL; `detail` is ignored, since every image has the same size for the model."""

    url: ImageText


class ImagePart(Lenient):
    """An image; some clients send only its URL."""

    type: Literal["image_url"]
    image_url: ImageURL | ImageText

    @property
    def url(self) -> str:
        """The image's URL."""
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


class TextPart(Lenient):
    """A text, which is ignored."""

    type: Literal["text"]
    text: str | None = None


class RefusalPart(Lenient):
    """An assistant's refusal to answer, which is ignored."""

    type: Literal["refusal"]
    refusal: str | None = None


Part = Annotated[ImagePart | TextPart | RefusalPart, Field(discriminator="type")]


class Message(Lenient):
    """A message; only its images are used."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None

    def images(self, param: str) -> list[ImageAt]:
        """Its images, in order; param: its own place."""
        parts = self.content if isinstance(self.content, list) else []
        return [
            ImageAt(part.url, f"{param}.content[{at}].image_url")
            for at, part in enumerate(parts)
            if isinstance(part, ImagePart)
        ]


class StreamOptions(Lenient):
    """With `include_usage`, the last chunk contains token counts."""

    include_usage: bool | None = None


class TextFormat(Lenient):
    """Plain text."""

    type: Literal["text"]

    def layout(self, param: str) -> Layout:
        """Captions as they are, with an empty line between two."""
        return PLAIN


class NamedSchema(Lenient):
    """A JSON schema; `name` and `strict` change nothing."""

    # As `schema`, which pydantic's models have a method of.
    json_schema: dict[str, Any] = Field(alias="schema")


class SchemaFormat(Lenient):
    """JSON of a schema with one text."""

    type: Literal["json_schema"]
    json_schema: NamedSchema

    def layout(self, param: str) -> Layout:
        """The layout that fills the schema.

        Raises:
            ApiError: 400, captions do not fill it.
        """
        return layout_of(self.json_schema.json_schema, param)


# JSON schema: some message has an image.
_IMAGE = {"type": "object", "properties": {"type": {"const": "image_url"}}, "required": ["type"]}
_IMAGES = {"properties": {"content": {"type": "array", "contains": _IMAGE}}}
_WITH_IMAGE: dict[str, Any] = {"contains": {**_IMAGES, "required": ["content"]}}


class ChatRequest(HuggingFaceNames, IgnoredFields):
    """A request for captions; temperature 0, the default, takes the most likely tokens.

    Any `model` is accepted, since the server has one; the response names it. At most 1,024 tokens
    are written: -1 and 0 request this maximum, and a larger number is not an error. A seed of -1 or
    null is replaced by a random one. `n` times the number of images is at most 16.
    """

    model_config = ConfigDict(extra="allow", json_schema_extra=SEVERAL_BEAMS)
    # Unknown fields request nothing if they are null.
    __pydantic_extra__: dict[str, None] = Field(init=False)

    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, json_schema_extra=_WITH_IMAGE)]
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CAPTIONS), INTEGRAL] | None = None
    response_format: Annotated[TextFormat | SchemaFormat, Field(discriminator="type")] | None = None
    # Refused if they request something.
    logprobs: Literal[False, 0] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0), INTEGRAL] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    function_call: Literal["none", "auto"] | None = None
    modalities: list[Literal["text"]] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.images():
            raise ValueError(
                "The messages must contain an image, as the part "
                '{"type": "image_url", "image_url": {"url": ...}}'
            )
        return self

    def images(self) -> list[ImageAt]:
        """The images of the last user message that has some."""
        return last_images(
            (message.role, message.images(f"messages[{at}]"))
            for at, message in enumerate(self.messages)
        )

    def limits(self) -> tuple[int, int]:
        """The smallest and the largest number of tokens."""
        shortest, longest = super().limits()
        given = [one for one in (self.max_completion_tokens, self.max_tokens) if one is not None]
        return shortest, tokens_of(given[0]) if given else longest

    def streams(self) -> bool:
        """Whether the answer is streamed."""
        return bool(self.stream)

    def layout(self) -> Layout:
        """How the captions of an answer are laid out.

        Raises:
            ApiError: 400, they do not fill the schema.
        """
        return self.response_format.layout("response_format") if self.response_format else PLAIN

    def ignored(self) -> list[str]:
        """Names of the fields that request something that is not done."""
        return [*super().ignored(), *self.without_effect()]

    def wants_usage(self) -> bool:
        """Whether a stream ends with token counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)
