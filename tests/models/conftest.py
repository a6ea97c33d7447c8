"""Tiny models of the real classes, fresh for each test."""

import copy

import pytest
import torch
from PIL import Image
from tests.tiny import TEXTS, TINY, build_vlv, spread
from transformers import CLIPTokenizer, Qwen2Tokenizer, RobertaTokenizer

from vlv.models.model_config import VLVConfig
from vlv.models.tokenizers import (
    train_clip_tokenizer,
    train_florence_tokenizer,
    train_qwen2_tokenizer,
)
from vlv.pipeline import VLV


@pytest.fixture(scope="session")
def florence_tokenizer() -> RobertaTokenizer:
    return train_florence_tokenizer(TEXTS)


@pytest.fixture(scope="session")
def clip_tokenizer() -> CLIPTokenizer:
    return train_clip_tokenizer(TEXTS)


@pytest.fixture(scope="session")
def qwen_tokenizer() -> Qwen2Tokenizer:
    return train_qwen2_tokenizer(TEXTS)


@pytest.fixture(scope="session")
def tiny_config() -> VLVConfig:
    return VLVConfig.model_validate(TINY)


@pytest.fixture(scope="session")
def template(
    tiny_config: VLVConfig,
    florence_tokenizer: RobertaTokenizer,
    clip_tokenizer: CLIPTokenizer,
    qwen_tokenizer: Qwen2Tokenizer,
) -> VLV:
    """Weights large enough for outputs to differ clearly between inputs."""
    torch.manual_seed(0)
    model = build_vlv(
        tiny_config,
        encoder_tokenizer=florence_tokenizer,
        text_tokenizer=clip_tokenizer,
        language_tokenizer=qwen_tokenizer,
    )
    for box in (model.encoder, model.text_tower, model.decoder, model.caption_decoder):
        box.eval()
    spread(model.encoder, model.text_tower, model.caption_decoder)
    return model


@pytest.fixture
def model(template: VLV) -> VLV:
    return copy.deepcopy(template)


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (3, 32, 32, 3), generator=generator, dtype=torch.uint8)
    return [Image.fromarray(array) for array in pixels.numpy()]
