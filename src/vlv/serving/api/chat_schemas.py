"""Requests of OpenAI's chat completions, as far as a caption model supports them.

VLV follows no instructions: it captions the last image of a conversation and ignores text. Every
field of OpenAI's API is accepted at the value that requests nothing. Other values are applied,
ignored and named in a header (`ignored`), or refused where the answer would mislead the client.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vlv.serving.api.schemas import (
    INTEGRAL,
    MAX_TOKENS,
    SEVERAL_BEAMS,
    Beams,
    ImageText,
    Strict,
    Temperature,
    TopP,
    check_beams,
    random_seed,
)

DEFAULT_TOKENS = 300
Limit = Annotated[int, Field(ge=-1, lt=2**64), INTEGRAL]
AnySeed = Annotated[int, Field(ge=-(2**63), lt=2**64), INTEGRAL]

UNSUPPORTED = {
    "n": "This server writes one caption for each request: leave `n` out, or send 1.",
    "logprobs": "This server returns no `logprobs`: leave it out, or send false.",
    "top_logprobs": "This server returns no `top_logprobs`: leave it out, or send 0.",
    "tool_choice": "This model calls no tools: leave `tool_choice` out, or send none or auto.",
    "function_call": "This model calls no functions: leave `function_call` out, or send none or "
    "auto.",
    "response_format": "This model writes plain text and follows no format or schema: leave "
    '`response_format` out, or send {"type": "text"}.',
    "modalities": 'This model answers with text only: leave `modalities` out, or send ["text"].',
}


class Lenient(BaseModel):
    """Accepts further fields, which have no effect."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


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

    def images(self) -> list[str]:
        """The URLs of its images, in order."""
        parts = self.content if isinstance(self.content, list) else []
        return [part.url for part in parts if isinstance(part, ImagePart)]


class StreamOptions(Lenient):
    """With `include_usage`, the last chunk contains token counts."""

    include_usage: bool | None = None


class TextFormat(Lenient):
    """The only supported format."""

    type: Literal["text"]


class IgnoredFields(Strict):
    """Fields of OpenAI and of other servers that have no effect here.

    The default of each requests nothing, as null does; `_NO_REQUEST` has further such values.
    """

    frequency_penalty: Any = 0
    presence_penalty: Any = 0
    repetition_penalty: Any = 1
    repeat_penalty: Any = 1
    repeat_last_n: Any = 0
    length_penalty: Any = 1
    no_repeat_ngram_size: Any = 0
    top_k: Any = 0
    top_a: Any = 0
    min_p: Any = 0
    typical_p: Any = 1
    tfs: Any = 1
    tfs_z: Any = 1
    mirostat: Any = 0
    mirostat_mode: Any = 0
    mirostat_tau: Any = None
    mirostat_eta: Any = None
    dynatemp_range: Any = 0
    dynatemp_exponent: Any = 1
    xtc_probability: Any = 0
    xtc_threshold: Any = None
    dry_multiplier: Any = 0
    dry_base: Any = None
    dry_allowed_length: Any = None
    dry_sequence_breakers: Any = None
    best_of: Any = 1
    use_beam_search: Any = False
    early_stopping: Any = False
    logit_bias: Any = {}
    stop: Any = []
    stop_token_ids: Any = []
    include_stop_str_in_output: Any = False
    ignore_eos: Any = False
    min_tokens: Any = 0
    skip_special_tokens: Any = True
    spaces_between_special_tokens: Any = True
    echo: Any = False
    add_generation_prompt: Any = True
    continue_final_message: Any = False
    add_special_tokens: Any = False
    chat_template: Any = None
    chat_template_kwargs: Any = {}
    mm_processor_kwargs: Any = {}
    truncate_prompt_tokens: Any = None
    cache_prompt: Any = None
    keep_alive: Any = None
    num_ctx: Any = None
    num_predict: Any = None
    options: Any = {}
    priority: Any = 0
    request_id: Any = None
    tools: Any = []
    functions: Any = []
    parallel_tool_calls: Any = True
    audio: Any = None
    prediction: Any = None
    store: Any = False
    metadata: Any = {}
    moderation: Any = None
    service_tier: Any = "auto"
    reasoning_effort: Any = "none"
    reasoning: Any = None
    include_reasoning: Any = False
    enable_thinking: Any = False
    thinking: Any = None
    verbosity: Any = "medium"
    web_search_options: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    prompt_cache_options: Any = None
    safety_identifier: Any = None
    user: Any = None

    def ignored(self) -> list[str]:
        """Names of the fields that request something that is not done."""
        return [
            name
            for name, field in IgnoredFields.model_fields.items()
            if name not in _METADATA
            and (value := getattr(self, name)) is not None
            and value not in (field.default, *_NO_REQUEST.get(name, ()))
        ]


_NO_REQUEST: dict[str, list[Any]] = {
    "top_k": [-1],
    "typical_p": [0],
    "stop": [""],
    "parallel_tool_calls": [False],
    "spaces_between_special_tokens": [False],
    "add_generation_prompt": [False],
    "service_tier": ["default"],
    "cache_prompt": [True, False],
}
# Clients do not expect these to change an answer.
_METADATA = {"user", "safety_identifier", "prompt_cache_key", "request_id"}


# JSON schema: some message has an image.
_IMAGE = {"type": "object", "properties": {"type": {"const": "image_url"}}, "required": ["type"]}
_IMAGES = {"properties": {"content": {"type": "array", "contains": _IMAGE}}}
_WITH_IMAGE: dict[str, Any] = {"contains": {**_IMAGES, "required": ["content"]}}


class ChatRequest(IgnoredFields):
    """A request for one caption; temperature 0, the default, takes the most likely tokens.

    Any `model` is accepted, since the server has one; the response names it. At most 1,024 tokens
    are written: -1 and 0 request this maximum, and a larger number is not an error. A seed of -1 or
    null is replaced by a random one.
    """

    model_config = ConfigDict(extra="allow", json_schema_extra=SEVERAL_BEAMS)
    # Unknown fields request nothing if they are null.
    __pydantic_extra__: dict[str, None] = Field(init=False)

    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, json_schema_extra=_WITH_IMAGE)]
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: AnySeed | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    num_beams: Beams | None = None
    # Refused if they request something.
    n: Annotated[int, Field(ge=1, le=1), INTEGRAL] | None = None
    logprobs: Literal[False, 0] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0), INTEGRAL] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    function_call: Literal["none", "auto"] | None = None
    response_format: TextFormat | None = None
    modalities: list[Literal["text"]] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not any(message.images() for message in self.messages):
            raise ValueError(
                "The messages must contain an image, as the part "
                '{"type": "image_url", "image_url": {"url": ...}}'
            )
        check_beams(self.num_beams or 1, self.temperature or 0, bool(self.stream))
        return self

    def image(self) -> str:
        """The URL of the last image of the last user message that has one."""
        with_images = [message for message in self.messages if message.images()]
        of_users = [message for message in with_images if message.role == "user"]
        return (of_users or with_images)[-1].images()[-1]

    def max_new_tokens(self) -> int:
        """The maximum number of tokens."""
        given = [one for one in (self.max_completion_tokens, self.max_tokens) if one is not None]
        limit = given[0] if given else DEFAULT_TOKENS
        return MAX_TOKENS if limit < 1 else min(limit, MAX_TOKENS)

    def resolved_seed(self) -> int:
        """The seed, at least 0."""
        return random_seed() if self.seed is None or self.seed == -1 else self.seed % 2**63

    def wants_usage(self) -> bool:
        """Whether a stream ends with token counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)
