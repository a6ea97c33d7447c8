"""A tiny model of every family, of the library's real classes. A new family gets an entry here, and
with it the tests of `test_every_family.py`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import compute_loss_weighting_for_sd3
from PIL import Image
from tests.tiny import TINY
from torch import Tensor

from vlv.models.conditioning import Conditioning
from vlv.models.config import FamilyName
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.text_tower import TextTower
from vlv.training.objectives.weighting import LossWeighting


def _changed(**changes: Any) -> dict[str, Any]:
    """`TINY` as another family: with other parts in place of its U-Net and text tower."""
    kept = {name: value for name, value in TINY.items() if name != "unet"}
    return {**kept, **changes}


def _clip(width: int, projection: int, act: str) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "hidden_act": act,
        "projection_dim": projection,
    }


_KL_16 = {
    **TINY["vae"],
    "latent_channels": 16,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
# Of a deep compression autoencoder: 8 pixels a latent, where the published one has 32.
_DC = {
    "latent_channels": 8,
    "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"],
    "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"],
    "encoder_block_out_channels": [8, 8, 8, 8],
    "decoder_block_out_channels": [8, 8, 8, 8],
    "encoder_layers_per_block": [1, 1, 1, 1],
    "decoder_layers_per_block": [1, 1, 1, 1],
    "encoder_qkv_multiscales": [[], [], [], []],
    "decoder_qkv_multiscales": [[], [], [], [5]],
    "attention_head_dim": 4,
    "downsample_block_type": "conv",
    "upsample_block_type": "interpolate",
    "scaling_factor": 0.41407,
}
T5 = {
    "d_model": 40,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
}

TINY_FAMILIES: dict[FamilyName, dict[str, Any]] = {
    "stable-diffusion": TINY,
    "sdxl": _changed(
        family="sdxl",
        text_tower={
            "text_encoder": _clip(16, 16, "quick_gelu"),
            "text_encoder_2": _clip(20, 12, "gelu"),
        },
        unet={
            **TINY["unet"],
            "cross_attention_dim": 36,
            "transformer_layers_per_block": [1, 2],
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 36,
        },
        scheduler={
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "prediction_type": "epsilon",
            "clip_sample": False,
            "steps_offset": 1,
        },
    ),
    "sd3": _changed(
        family="sd3",
        text_tower={
            "text_encoder": _clip(16, 12, "quick_gelu"),
            "text_encoder_2": _clip(20, 20, "gelu"),
        },
        transformer={
            "sample_size": 4,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 40,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 32,
            "pos_embed_max_size": 8,
            "qk_norm": "rms_norm",
            "dual_attention_layers": [0],
        },
        vae=_KL_16,
        scheduler={"num_train_timesteps": 1000, "shift": 3.0},
    ),
    "flux": _changed(
        family="flux",
        text_tower={"text_encoder": _clip(16, 16, "quick_gelu"), "text_encoder_2": T5},
        transformer={
            "patch_size": 1,
            "in_channels": 64,
            "num_layers": 1,
            "num_single_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 40,
            "pooled_projection_dim": 16,
            "guidance_embeds": True,
            "axes_dims_rope": [2, 2, 4],
        },
        vae=_KL_16,
        scheduler={
            "num_train_timesteps": 1000,
            "shift": 3.0,
            "use_dynamic_shifting": True,
            "base_shift": 0.5,
            "max_shift": 1.15,
            "base_image_seq_len": 256,
            "max_image_seq_len": 4096,
        },
    ),
    "sana": _changed(
        family="sana",
        text_tower={
            "text_encoder": {
                "hidden_size": 20,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 8,
                "query_pre_attn_scalar": 8,
                "max_position_embeddings": 2048,
            },
        },
        transformer={
            "sample_size": 4,
            "in_channels": 8,
            "out_channels": 8,
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 8,
            "cross_attention_dim": 16,
            "caption_channels": 20,
        },
        vae=_DC,
        scheduler={"num_train_timesteps": 1000, "shift": 3.0},
    ),
}


def embedded_ids(tower: TextTower, ids: Tensor) -> Tensor:
    """The token embeddings (B,L,d) of ids of all slots: what z stands in place of."""
    slots = zip(tower.encoders.values(), tower.ids_of_slots(ids), strict=True)
    return torch.cat([encoder.get_input_embeddings()(one) for encoder, one in slots], dim=-1)


def pixel_gap(a: Image.Image, b: Image.Image) -> int:
    """The largest difference of two pictures, in levels of 255."""
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())


@torch.no_grad()
def check_flow_loss(
    decoder: DiffusionDecoder, c: Conditioning, predict: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """The loss and its weights are those of diffusers' training scripts of flows. predict: the
    transformer's prediction as the script calls it.
    """
    process, scheduler = decoder.noise_process, decoder.scheduler
    latents, noise = torch.randn(2, len(c), *decoder.latent_shape)
    u = torch.tensor([0.0, 0.1, 0.5, 0.9])
    # The script looks levels up in a descending list of timesteps.
    indices = ((1 - u) * 1000).long() - 1
    timesteps = scheduler.timesteps[indices]
    sigmas = scheduler.sigmas[indices].view(-1, 1, 1, 1)
    predicted = predict((1.0 - sigmas) * latents + sigmas * noise, timesteps)
    expected = (predicted - (noise - latents)).square().flatten(1).mean(1)
    found = decoder.denoising_loss(latents, c, noise, process.timesteps(u))
    assert torch.allclose(process.timesteps(u), timesteps, atol=1e-2)
    assert torch.allclose(found, expected, atol=1e-5)
    for scheme in ("sigma_sqrt", "cosmap"):
        weights = compute_loss_weighting_for_sd3(scheme, sigmas).flatten()
        ours = LossWeighting(scheme).weights(process, process.timesteps(u))
        assert torch.allclose(ours, weights, rtol=1e-4)
