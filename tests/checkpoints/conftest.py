"""The tiny models of `tests/models`."""

from tests.models.conftest import (
    clip_tokenizer,
    florence_tokenizer,
    images,
    model,
    qwen_tokenizer,
    template,
    tiny_config,
)

__all__ = [
    "clip_tokenizer",
    "florence_tokenizer",
    "images",
    "model",
    "qwen_tokenizer",
    "template",
    "tiny_config",
]
