"""A tiny untrained model of the world's picture size and a tiny untrained inspector."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import TINY_MODEL, build_vlv, spread

from vlv.models.model_config import VLVConfig
from vlv.models.tokenizers import (
    train_clip_tokenizer,
    train_florence_tokenizer,
    train_qwen2_tokenizer,
)
from vlv.pipeline import VLV
from vlv.world.inspector import Inspector, InspectorConfig

TEXTS = [
    "A small matte red cube stands on the left, and a large shiny blue sphere on the right.",
    "The floor is gray and the light comes from the right.",
] * 4


def build_model(seed: int, sizes: Mapping[str, Any] = TINY_MODEL) -> VLV:
    torch.manual_seed(seed)
    model = build_vlv(
        VLVConfig.model_validate(sizes),
        encoder_tokenizer=train_florence_tokenizer(TEXTS),
        text_tokenizer=train_clip_tokenizer(TEXTS),
        language_tokenizer=train_qwen2_tokenizer(TEXTS),
    )
    spread(model.encoder, model.text_tower, model.decoder)
    for box in (model.encoder, model.text_tower, model.decoder):
        box.eval()
    return model


@pytest.fixture(scope="session")
def model() -> VLV:
    return build_model(0)


@pytest.fixture(scope="session")
def model_dir(model: VLV, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "model"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def stage1_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "stage1"
    build_model(1).save_pretrained(
        folder, components=["encoder", "text_tower", "vae", "unet", "scheduler"]
    )
    return folder


@pytest.fixture(scope="session")
def inspector() -> Inspector:
    torch.manual_seed(2)
    small = Inspector(InspectorConfig(fine=8, grid=8, coarse=16)).eval()
    # An untrained one sees nothing; this one sees objects everywhere.
    assert small.cell_head.bias is not None
    torch.nn.init.constant_(small.cell_head.bias[:1], 0.0)
    return small


@pytest.fixture(scope="session")
def inspector_dir(inspector: Inspector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "inspector"
    inspector.save_pretrained(folder)
    return folder
