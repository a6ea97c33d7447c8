"""A tiny VLV of the real classes as a model folder, for the rooms that use models."""

from pathlib import Path

import pytest
import torch

from tests.models.conftest import TEXTS, TINY
from vlv.models.config import VLVConfig
from vlv.models.tokenizers import (
    train_clip_tokenizer,
    train_florence_tokenizer,
    train_qwen2_tokenizer,
)
from vlv.models.vlv import VLV


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights, large enough for outputs to differ between inputs."""
    torch.manual_seed(0)
    model = VLV.from_config(
        VLVConfig.model_validate(TINY),
        encoder_tokenizer=train_florence_tokenizer(TEXTS),
        text_tokenizer=train_clip_tokenizer(TEXTS),
        language_tokenizer=train_qwen2_tokenizer(TEXTS),
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for box in (model.encoder, model.text_tower, model.captioner):
            for parameter in box.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    folder = tmp_path_factory.mktemp("tiny") / "model"
    model.save_pretrained(folder)
    return folder
