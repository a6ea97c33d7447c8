"""What is wrong with a request, in a plain sentence that names the field and never its content."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlv.serving.errors import ApiError
from vlv.text import printable

Finding = Mapping[str, Any]
# What a value must be, by pydantic's name of what is wrong with it.
_MUST: dict[str, Callable[[Any], str]] = {
    "string_type": lambda _: "text",
    "int_type": lambda _: "a whole number",
    "int_parsing": lambda _: "a whole number",
    "int_from_float": lambda _: "a whole number",
    "int_parsing_size": lambda _: "a smaller number",
    "float_type": lambda _: "a number",
    "finite_number": lambda _: "a finite number",
    "bool_type": lambda _: "true or false",
    "list_type": lambda _: "a list",
    "dict_type": lambda _: "an object",
    "model_type": lambda _: "an object",
    "model_attributes_type": lambda _: "an object",
    "none_required": lambda _: "null",
    "literal_error": lambda told: str(told["expected"]).replace("'", '"'),
    "greater_than_equal": lambda told: f"{_number(told['ge'])} or more",
    "greater_than": lambda told: f"more than {_number(told['gt'])}",
    "less_than_equal": lambda told: f"{_number(told['le'])} or less",
    "less_than": lambda told: f"less than {_number(told['lt'])}",
}
_HAS: dict[str, Callable[[Any], str]] = {
    "string_too_short": lambda told: f"at least {told['min_length']} characters",
    "string_too_long": lambda told: f"at most {told['max_length']} characters",
    "too_short": lambda told: f"at least {told['min_length']} items",
    "too_long": lambda told: f"at most {told['max_length']} items",
}


def invalid(findings: Sequence[Finding], body: Any, meant: Mapping[str, str]) -> ApiError:
    """The refusal of a request for the first thing that is wrong with it.

    `meant` has sentences for fields that are known and cannot be done, by their names.
    """
    # Of a field that may be one thing or another, the try that came deepest says what was meant.
    deepest = max(len(_path(one, body)) for one in findings)
    first = next(one for one in findings if len(_path(one, body)) == deepest)
    path = _path(first, body)
    same = [one for one in findings if _path(one, body) == path]
    param = _written(path)
    if first["loc"][0] == "body" and path and path[0] in meant:
        message = meant[str(path[0])]
    else:
        message = _sentence(f"`{param}`" if param else "The body", same)
    return ApiError(400, "invalid_request", message, param or None)


def _sentence(name: str, findings: Sequence[Finding]) -> str:
    first = findings[0]
    kind, told = first["type"], first.get("ctx", {})
    if kind == "missing":
        return f"{name} is missing."
    if kind in ("extra_forbidden", "none_required"):
        return f"There is no field {name} here; leave it out."
    if kind == "value_error":
        return f"{str(first['msg']).removeprefix('Value error, ').rstrip('.')}."
    if kind == "union_tag_not_found":
        return f"{name} has no `type`."
    if kind == "union_tag_invalid":
        expected = str(told["expected_tags"]).replace("'", "`").replace(", ", " or ")
        tag = printable(str(told["tag"])[:40])
        return f"{name} must have the `type` {expected}, not `{tag}`."
    must = [_MUST[one["type"]](one.get("ctx", {})) for one in findings if one["type"] in _MUST]
    if must:
        return f"{name} must be {' or '.join(dict.fromkeys(must))}."
    if kind in _HAS:
        return f"{name} must have {_HAS[kind](told)}."
    return f"{name} has a value that cannot be used here."


def _path(finding: Finding, body: Any) -> tuple[str | int, ...]:
    """Where in the body it is; names of alternatives that pydantic tried are left out."""
    place, *keys = finding["loc"]
    if place != "body":
        return tuple(keys)
    path: list[str | int] = []
    value = body
    for at, key in enumerate(keys):
        last = at == len(keys) - 1
        if isinstance(value, dict) and isinstance(key, str) and (key in value or last):
            path.append(key)
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int) and key < len(value):
            path.append(key)
            value = value[key]
    return tuple(path)


def _written(path: Sequence[str | int]) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return printable(text.removeprefix(".")[:100])


def _number(limit: float) -> str:
    return str(int(limit)) if limit == int(limit) else str(limit)
