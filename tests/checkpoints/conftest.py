"""The tiny models of `tests/models`."""

from tests.models.conftest import (
    clip_tokenizer,
    florence_tokenizer,
    images,
    qwen_tokenizer,
    template,
    tiny_config,
    vlv,
)

__all__ = [
    "clip_tokenizer",
    "florence_tokenizer",
    "images",
    "qwen_tokenizer",
    "template",
    "tiny_config",
    "vlv",
]
