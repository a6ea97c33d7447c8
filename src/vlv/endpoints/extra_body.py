"""Further fields of every request to a server: what one server needs and others do not know.

Servers of models that think turn that off by a field of their own, and newer models of OpenAI take
`max_completion_tokens` in place of `max_tokens`. A field that is null leaves ours out.
"""

from collections.abc import Mapping
from typing import Any

from vlv.errors import ConfigError, VLVError
from vlv.text import parse_json, printable

ExtraBody = Mapping[str, Any]
# What is asked is not for others to say, and answers are read whole and one by one.
_OURS = ("messages", "model", "n", "response_format", "stream")
_LIMITS = ("max_tokens", "max_completion_tokens")


class _NotJson(VLVError):
    """The text is not JSON."""


def parse_extra_body(text: str) -> dict[str, Any]:
    """The fields in the JSON of `--extra-body`.

    Raises:
        ConfigError: it is no JSON object, or sets a field that is not for it to set.
    """
    example = """such as '{"chat_template_kwargs": {"enable_thinking": false}}'"""
    try:
        extra = parse_json(text, f"--extra-body {printable(text)}", _NotJson)
    except _NotJson as error:
        raise ConfigError(f"{error}; give a JSON object, {example}") from error
    if not isinstance(extra, dict):
        raise ConfigError(f"--extra-body {printable(text)} is no JSON object, {example}")
    if ours := [name for name in _OURS if name in extra]:
        raise ConfigError(f"--extra-body cannot set {ours[0]}, which is part of every question")
    limits = [extra[name] for name in _LIMITS if name in extra]
    if not all(one is None or (type(one) is int and one > 0) for one in limits):
        raise ConfigError("--extra-body: a limit of tokens is a whole number above 0, or null")
    if limits and not any(limits) and "max_tokens" in extra:
        raise ConfigError(
            "--extra-body takes the limit of tokens away, so that no budget could be kept; set "
            "max_completion_tokens as well"
        )
    return extra


def with_extra(body: Mapping[str, Any], extra: ExtraBody) -> dict[str, Any]:
    """A request with further fields, without those that are null there."""
    return {name: value for name, value in {**body, **extra}.items() if value is not None}


def most_tokens(body: Mapping[str, Any]) -> int:
    """The most tokens that the answer to a request may have."""
    return max(int(body[name]) for name in _LIMITS if name in body)
