"""Files to work on."""

from pathlib import Path

import pytest
from tests.tiny import quick_verifier_dir, save_pictures, tiny_model_dir, use_tiny_model

__all__ = ["quick_verifier_dir", "tiny_model_dir", "use_tiny_model"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with one picture for each colour of `CAPTIONS`, and nothing else."""
    return save_pictures(tmp_path / "pictures")
