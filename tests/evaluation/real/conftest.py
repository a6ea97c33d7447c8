"""Photographs, a tiny model of ours, and tiny models of transformers."""

from pathlib import Path

import pytest
from tests.evaluation.real.captioning_models import (
    save_clip,
    save_florence,
    save_llava,
    save_siglip,
)
from tests.evaluation.real.photographs import save_photographs
from tests.shared import shared_folder
from tests.tiny import quick_verifier_dir, tiny_model_dir

__all__ = ["quick_verifier_dir", "tiny_model_dir"]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Six photographs with their captions."""
    return save_photographs(tmp_path / "photographs")


@pytest.fixture(scope="session")
def florence_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "tiny-florence", save_florence)


@pytest.fixture(scope="session")
def llava_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "tiny-llava", save_llava)


@pytest.fixture(scope="session")
def clip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "tiny-clip", save_clip)


@pytest.fixture(scope="session")
def siglip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "tiny-siglip", save_siglip)
