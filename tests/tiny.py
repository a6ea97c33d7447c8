"""A tiny VLV of the real classes as a model folder, for the rooms that use models.

Its captioner has learned what to say of a few plain pictures, so that captions are words, differ
between images and end by themselves; everything else is random.
"""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.shared import shared_folder
from torch import nn
from transformers import CLIPTokenizer, Qwen2Tokenizer, RobertaTokenizer

from vlv.checkpoints.hub import resolve
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.encoder import VLVEncoder
from vlv.models.families import load_family
from vlv.models.model_config import VLVConfig
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

# The noise schedule of the mini.
_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "steps_offset": 1,
}

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
    "scheduler": _SCHEDULER,
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
# For the world's pictures of 64 pixels: what `vlv train` makes, and what tables measure.
TINY_MODEL: dict[str, Any] = {
    "decoder_image_size": 64,
    "encoder": {
        "image_size": 64,
        "num_queries": 8,
        "florence": {
            "vision_config": {
                "depths": [1],
                "patch_size": [7],
                "patch_stride": [8],
                "patch_padding": [3],
                "patch_prenorm": [False],
                "embed_dim": [16],
                "num_heads": [2],
                "num_groups": [2],
                "window_size": 4,
                "drop_path_rate": 0.0,
                "max_position_embeddings": 16,
                "max_temporal_embeddings": 1,
                "projection_dim": 16,
            },
            "text_config": {
                "d_model": 16,
                "encoder_layers": 1,
                "decoder_layers": 1,
                "encoder_attention_heads": 2,
                "decoder_attention_heads": 2,
                "encoder_ffn_dim": 32,
                "decoder_ffn_dim": 32,
                "max_position_embeddings": 128,
                "dropout": 0.0,
            },
        },
    },
    "text_tower": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
    },
    "vae": {
        "sample_size": 64,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [4, 4, 8, 8],
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 2,
    },
    "unet": {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "attention_head_dim": 2,
        "cross_attention_dim": 16,
        "norm_num_groups": 4,
    },
    "scheduler": _SCHEDULER,
    "language_model": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    },
}
# `TINY_MODEL` with the classes of SD 3, on the latents of the same VAE.
TINY_SD3_MODEL: dict[str, Any] = {
    **{name: value for name, value in TINY_MODEL.items() if name != "unet"},
    "family": "sd3",
    "text_tower": {
        name: {**TINY_MODEL["text_tower"], "num_hidden_layers": 2, "projection_dim": 8}
        for name in ("text_encoder", "text_encoder_2")
    },
    "transformer": {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 16,
        "pos_embed_max_size": 8,
    },
    "scheduler": {"num_train_timesteps": 1000, "shift": 1.0},
}
# Colour of a plain picture -> its caption.
CAPTIONS = {
    "red": "A red cube stands on the left. The floor is gray.",
    "blue": "The light comes from the right.",
    "lime": "Two green cones stand at the back on a brown floor.",
}


def build_vlv(
    config: VLVConfig,
    *,
    encoder_tokenizer: RobertaTokenizer,
    text_tokenizer: CLIPTokenizer,
    language_tokenizer: Qwen2Tokenizer,
) -> VLV:
    """All boxes with fresh weights from torch's global generator."""
    tower = load_family(config.family).fresh_text_tower(config.text_encoders, text_tokenizer)
    return VLV.from_boxes(
        encoder=VLVEncoder.from_config(config.encoder, encoder_tokenizer, tower.slot_widths),
        text_tower=tower,
        decoder=DiffusionDecoder.from_config(
            config.vae,
            config.denoiser,
            config.scheduler,
            config.decoder_image_size,
            config.family,
        ),
        caption_decoder=CaptionDecoder.from_config(
            config.language_model, language_tokenizer, tower.conditioning_width
        ),
    )


def spread(*boxes: nn.Module, generator: torch.Generator | None = None) -> None:
    """Make weights large enough for outputs to differ clearly between inputs."""
    with torch.no_grad():
        for box in boxes:
            for parameter in box.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def plain(color: str, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """A picture of one colour, which the tiny model can caption if it is among `CAPTIONS`."""
    return Image.new("RGB", size, color)


def png(color: str, size: tuple[int, int] = (32, 32)) -> bytes:
    """The same as a file."""
    file = io.BytesIO()
    plain(color, size).save(file, "PNG")
    return file.getvalue()


def save_pictures(folder: Path) -> Path:
    """A file COLOR.png in the folder for each colour of `CAPTIONS`."""
    folder.mkdir(exist_ok=True)
    for color in CAPTIONS:
        (folder / f"{color}.png").write_bytes(png(color))
    return folder


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "tiny", _save_tiny_model) / "model"


@pytest.fixture
def use_tiny_model(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model is that of commands without --model."""
    monkeypatch.setenv("VLV_MODEL", str(tiny_model_dir))


@pytest.fixture(scope="session")
def quick_verifier_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model, whose verifier gathers less evidence and is done in half the time."""
    return shared_folder(tmp_path_factory, "quick-verifier", _save_quick_verifier) / "model"


def _save_quick_verifier(folder: Path) -> None:
    shutil.copytree(resolve("vlv-mini"), folder / "model")
    file = folder / "model" / "verifier" / "vlv_verifier.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "repeats": 1, "per_word": 1}))


def _save_tiny_model(folder: Path) -> None:
    torch.manual_seed(0)
    model = build_vlv(
        VLVConfig.model_validate(TINY),
        encoder_tokenizer=train_florence_tokenizer(TEXTS),
        text_tokenizer=train_clip_tokenizer(TEXTS),
        language_tokenizer=train_qwen2_tokenizer([*TEXTS, *CAPTIONS.values()]),
    )
    spread(model.encoder, model.text_tower, generator=torch.Generator().manual_seed(1))
    loss = learn(model, CAPTIONS, steps=120)
    assert loss < 0.05
    model.save_pretrained(folder / "model")


def learn(model: VLV, captions: dict[str, str], steps: int) -> float:
    """Teach the captioner what to say of plain pictures; the last loss is returned."""
    c = model.read(model.encode([plain(color) for color in captions]))
    ids, lengths = model.caption_decoder.tokenise(list(captions.values()))
    optimizer = torch.optim.Adam(model.caption_decoder.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model.caption_decoder(c, ids, lengths)
        loss.backward()
        optimizer.step()
    model.caption_decoder.eval()
    return loss.item()
