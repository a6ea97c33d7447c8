"""The text of an answer that holds one or more captions: plain, or JSON of a schema.

A schema is filled if the captions alone fill it: its only required field is a text, or a list of
texts. Any other schema asks for something that no caption says, and is refused.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlv.serving.errors import ApiError

# Of a schema of a text: words that a caption fulfils whatever it says.
_TEXT_WORDS = {"type", "title", "description", "default", "examples", "minLength"}
_LIST_WORDS = {"type", "title", "description", "items", "minItems"}
_TEXT_TYPES: list[Any] = ["string", ["string"], ["string", "null"], ["null", "string"]]
_LIST_TYPES: list[Any] = ["array", ["array"]]


@dataclass(frozen=True)
class Layout:
    """What stands before, between and after the captions of an answer.

    escaped: whether captions are written as the inside of a JSON string.
    """

    before: str = ""
    between: str = "\n\n"
    after: str = ""
    escaped: bool = False

    def piece(self, text: str) -> str:
        """A caption, or a piece of one, as the answer contains it."""
        return json.dumps(text, ensure_ascii=False)[1:-1] if self.escaped else text

    def text(self, captions: Sequence[str]) -> str:
        """The whole answer."""
        return self.before + self.between.join(map(self.piece, captions)) + self.after


PLAIN = Layout()


def layout_of(schema: Any, param: str) -> Layout:
    """The layout that fills a JSON schema.

    Raises:
        ApiError: 400, captions do not fill it.
    """
    name, field = _only_field(schema) or ("", {})
    key = json.dumps(name, ensure_ascii=False)
    if _is_text(field):
        return Layout(f'{{{key}: "', "\\n\\n", '"}', escaped=True)
    if field.get("type") in _LIST_TYPES and not set(field) - _LIST_WORDS:
        items, least = field.get("items"), field.get("minItems", 0)
        if _is_text(items) and least in (0, 1):
            return Layout(f'{{{key}: ["', '", "', '"]}', escaped=True)
    raise ApiError(
        400,
        "unsupported_schema",
        "A caption fills only a schema of an object with one required field, which is a string "
        "or an array of strings without further conditions; send such a schema, or plain text.",
        param,
    )


def _only_field(schema: Any) -> tuple[str, dict[str, Any]] | None:
    """The only field that an object of this schema must have, and the schema of the field."""
    if not isinstance(schema, dict) or schema.get("type") not in ("object", ["object"]):
        return None
    fields = schema.get("properties")
    if not isinstance(fields, dict) or set(schema) & {"allOf", "anyOf", "oneOf", "not", "if"}:
        return None
    required = schema.get("required", list(fields))
    if not isinstance(required, list) or len(required) != 1:
        return None
    (name,) = required
    field = fields.get(name) if isinstance(name, str) else None
    return (name, field) if isinstance(field, dict) else None


def _is_text(schema: Any) -> bool:
    if not isinstance(schema, dict) or schema.get("type") not in _TEXT_TYPES:
        return False
    return not set(schema) - _TEXT_WORDS and schema.get("minLength", 0) in (0, 1)
