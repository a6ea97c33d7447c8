"""Questions with any number of pictures, whose answers are JSON of a given form or plain text.

A server that knows `response_format` keeps to the schema; one that does not may wrap the JSON in
words or in Markdown, which is read too. Everything else is asked again: a refusal, an answer that
is cut, and JSON that the schema does not allow.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from vlv.endpoints.asking import ONLY_THOUGHTS, Body
from vlv.endpoints.endpoint import Answer
from vlv.endpoints.extra_body import ExtraBody, with_extra
from vlv.errors import DatasetError
from vlv.text import parse_json

REFUSAL = re.compile(
    r"^\W*(i['\u2019]?m (really |very )?(sorry|unable|not able)|i am (sorry|unable|not able)"
    r"|sorry,? (but )?i\b"
    r"|i (can(no|['\u2019])t|can not|won['\u2019]t|do not|don['\u2019]t) "
    r"(help|assist|provide|describe|see|view|process|identify|comply|analy[sz]e|have|caption|fulfil)"
    r"|unfortunately,? i\b|as an ai\b|no image (was|is|has been)"
    r"|(please|could you) (upload|provide|share|attach)\b)",
    re.IGNORECASE,
)
"""How a model that does not want to answer begins."""

Problem = Literal[
    "refusal",  # the model does not want to answer, or sees no picture
    "truncated",  # the answer was cut at the limit of tokens
    "bad-json",  # no JSON, or not of the form that was asked for
    "empty",  # no words
    "only-thoughts",  # the answer did not begin before the limit of tokens
]
"""Why an answer is of no use."""

Picture = Callable[[], bytes]
"""A JPEG, made when it is sent; may raise ImageError."""


class AnswerForm(Protocol):
    """The JSON that is asked for, and how it is read."""

    @property
    def response_format(self) -> dict[str, Any]:
        """As in OpenAI's `response_format`; vLLM, SGLang and llama.cpp take it too."""

    def read(self, text: str) -> Mapping[str, Any] | None:
        """The fields in an answer; None if it is not of this form."""


def json_schema(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The `response_format` that holds answers to a schema."""
    return {
        "type": "json_schema",
        "json_schema": {"name": name, "strict": True, "schema": dict(schema)},
    }


def object_in(text: str) -> Any:
    """The JSON object in an answer, which may stand among words; None where there is none."""
    start, end = text.find("{"), text.rfind("}")
    try:
        return parse_json(text[start : end + 1], "the answer", DatasetError)
    except DatasetError:
        return None


@dataclass(frozen=True)
class Form:
    """A form whose fields are single values: each field is a string, or one of some values.

    fields: name -> the values it may have, or None for any string; all of them are required.
    """

    name: str
    fields: Mapping[str, Sequence[str | int] | None]

    @property
    def response_format(self) -> dict[str, Any]:
        """As in OpenAI's `response_format`; vLLM, SGLang and llama.cpp take it too."""
        properties = {name: _schema(values) for name, values in self.fields.items()}
        schema = {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
        return json_schema(self.name, schema)

    def read(self, text: str) -> dict[str, str | int] | None:
        """The fields in an answer; None if it is not of this form."""
        value = object_in(text)
        if not isinstance(value, dict) or value.keys() != self.fields.keys():
            return None
        # Numbers come as text from models that no schema holds to them.
        read = {name: _read(value[name], values) for name, values in self.fields.items()}
        return None if None in read.values() else {k: v for k, v in read.items() if v is not None}


def _schema(values: Sequence[str | int] | None) -> dict[str, Any]:
    if values is None:
        return {"type": "string"}
    kind = "integer" if isinstance(values[0], int) else "string"
    return {"type": kind, "enum": list(values)}


def _read(value: object, allowed: Sequence[str | int] | None) -> str | int | None:
    if allowed is None:
        return value if isinstance(value, str) else None
    # True and 1.0 equal 1, and are no score.
    if isinstance(value, bool | float):
        return None
    return next((one for one in allowed if str(one) == str(value).strip()), None)


@dataclass(frozen=True)
class Chat:
    """One question. `scope` keeps the answers of two models apart that have one name.

    pictures: what they are named by (such as a hash of the file), and how they are sent.
    form: the JSON to answer with; None asks for plain text. extra: fields of this server alone.
    """

    name: str
    model: str
    instruction: str
    text: str
    pictures: Sequence[tuple[str, Picture]] = ()
    form: AnswerForm | None = None
    max_tokens: int = 512
    temperature: float | None = 0.0
    scope: str = ""
    extra: ExtraBody = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for equal questions, and for no others."""
        form = None if self.form is None else self.form.response_format
        names = [name for name, _ in self.pictures]
        asked = [self.scope, self.model, self.instruction, self.text]
        parts: list[Any] = [*asked, names, form, self.temperature]
        parts += [self.extra] if self.extra else []
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def prepare(self) -> Body:
        """The requests. A later one has more tokens, and another seed."""
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": data_url(picture())}}
            for _, picture in self.pictures
        ]
        content.append({"type": "text", "text": self.text})
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": self.instruction},
            # Text alone as a string: servers of language models take no parts.
            {"role": "user", "content": content if self.pictures else self.text},
        ]
        return lambda attempt: self._body(messages, attempt)

    def _body(self, messages: list[dict[str, Any]], attempt: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": self.max_tokens * min(attempt, 2),
            "messages": messages,
        }
        if self.form is not None:
            body["response_format"] = self.form.response_format
        temperature = self.temperature
        if attempt > 1:
            # A greedy answer would only come back the same.
            temperature = max(temperature or 0.0, 0.7)
            body["seed"] = attempt
        return with_extra({**body, "temperature": temperature}, self.extra)

    def read(self, answer: Answer) -> tuple[Problem | None, str]:
        """Why the answer is of no use or None, and it: JSON text of the form, or plain text."""
        text = answer.text.strip()
        if answer.finish == "content_filter" or REFUSAL.search(text):
            return "refusal", text
        if answer.only_thoughts:
            return ONLY_THOUGHTS, text
        if not text:
            return "empty", text
        if answer.finish == "length":
            return "truncated", text
        if self.form is None:
            return None, text
        fields = self.form.read(text)
        return ("bad-json", text) if fields is None else (None, json.dumps(fields))


@dataclass(frozen=True)
class AnyQuestion:
    """What all answers of a ledger of chats share: nothing, since keys hold the whole question."""

    purpose: str

    @property
    def fingerprint(self) -> str:
        """The purpose."""
        return self.purpose

    @property
    def about(self) -> dict[str, str]:
        """The purpose."""
        return {"purpose": self.purpose}


def data_url(jpeg: bytes) -> str:
    """A picture as the address of an image."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
