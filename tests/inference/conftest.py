"""The tiny model, opened fresh for each test."""

from pathlib import Path

import pytest
from tests.tiny import tiny_model_dir

from vlv.pipeline import VLV

__all__ = ["tiny_model_dir"]


@pytest.fixture
def model(tiny_model_dir: Path) -> VLV:
    return VLV.from_pretrained(tiny_model_dir)
