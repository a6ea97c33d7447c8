"""The tiny models of `tests/models`, and base models for checkpoints in the authors' layout."""

from typing import TYPE_CHECKING

import pytest
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

if TYPE_CHECKING:
    from tests.checkpoints.authors_layout import Parts


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> "Parts":
    """Folders of Florence-2, Stable Diffusion and Qwen2."""
    from tests.checkpoints.authors_layout import base_parts

    return base_parts(tmp_path_factory.mktemp("parts"))
