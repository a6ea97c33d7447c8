"""Tiny models of the real classes, fresh for each test."""

import copy

import pytest
import torch
from PIL import Image
from transformers import CLIPTokenizer, Qwen2Tokenizer, RobertaTokenizer

from vlv.models.config import VLVConfig
from vlv.models.tokenizers import (
    train_clip_tokenizer,
    train_florence_tokenizer,
    train_qwen2_tokenizer,
)
from vlv.pipeline import VLV

TEXTS = [
    "A small red cube stands on the left, in front of a large blue sphere.",
    "The floor is gray and the light comes from the right.",
    "Two green cones stand at the back on a brown floor.",
] * 4

TINY = {
    "decoder_image_size": 32,
    "encoder": {
        "image_size": 32,
        "num_queries": 6,
        "florence": {
            "vision_config": {
                "depths": [1, 1],
                "patch_size": [7, 3],
                "patch_stride": [4, 2],
                "patch_padding": [3, 1],
                "patch_prenorm": [False, True],
                "embed_dim": [8, 16],
                "num_heads": [2, 2],
                "num_groups": [2, 4],
                "window_size": 4,
                "drop_path_rate": 0.0,
                "max_position_embeddings": 8,
                "max_temporal_embeddings": 2,
                "projection_dim": 24,
            },
            "text_config": {
                "d_model": 24,
                "encoder_layers": 2,
                "decoder_layers": 2,
                "encoder_attention_heads": 2,
                "decoder_attention_heads": 3,
                "encoder_ffn_dim": 40,
                "decoder_ffn_dim": 32,
                "max_position_embeddings": 96,
                "dropout": 0.0,
            },
        },
    },
    "text_tower": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
    },
    "vae": {
        "sample_size": 32,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [8, 8, 8, 8],
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "scaling_factor": 0.3,
    },
    "unet": {
        "sample_size": 4,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": 16,
    },
    "scheduler": {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "clip_sample": False,
        "steps_offset": 1,
    },
    "language_model": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    },
}


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
    model = VLV.from_config(
        tiny_config,
        encoder_tokenizer=florence_tokenizer,
        text_tokenizer=clip_tokenizer,
        language_tokenizer=qwen_tokenizer,
    )
    for box in (model.encoder, model.text_tower, model.decoder, model.caption_decoder):
        box.eval()
    with torch.no_grad():
        for box in (model.encoder, model.text_tower, model.caption_decoder):
            for parameter in box.parameters():
                parameter += 0.1 * torch.randn(parameter.shape)
    return model


@pytest.fixture
def vlv(template: VLV) -> VLV:
    return copy.deepcopy(template)


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (3, 32, 32, 3), generator=generator, dtype=torch.uint8)
    return [Image.fromarray(array) for array in pixels.numpy()]
