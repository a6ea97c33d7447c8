"""What the pictures of `vlv eval coco-fid` and `vlv eval reconstruction` take, by count.

Networks of the published shapes on PyTorch's meta device, through its FLOP counter: no weights, no
network, seconds on one core. Prints Markdown rows: TFLOP of a picture, parameters, and GPU-hours of
30,000 pictures at an assumed rate.

    python benchmarks/picture_cost.py
"""

import argparse
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

# stabilityai/stable-diffusion-3.5-medium, transformer/config.json.
SD35_MEDIUM = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
    "qk_norm": "rms_norm",
}
# stabilityai/stable-diffusion-2-1-base, unet/config.json.
SD21_BASE = {
    "sample_size": 64,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
# The same, text_encoder, text_encoder_2, text_encoder_3 and vae.
CLIPS = (
    {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "projection_dim": 768},
    {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "projection_dim": 1280,
    },
)
T5_XXL = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
SD35_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
# Tokens of SD 3.5: 77 of the CLIPs and 256 of T5.
TEXT = 77 + 256
PICTURES = 30_000


def sd35_step(side: int) -> tuple[int, int]:
    """FLOP of one evaluation at `side` pixels, and parameters."""
    with torch.device("meta"):
        network = SD3Transformer2DModel(**SD35_MEDIUM)
        inputs: dict[str, Any] = {
            "hidden_states": torch.empty(1, 16, side // 8, side // 8),
            "encoder_hidden_states": torch.empty(1, TEXT, 4096),
            "pooled_projections": torch.empty(1, 2048),
            "timestep": torch.empty(1),
        }
    return counted(network, inputs)


def sd35_parameters() -> int:
    """Of the whole pipeline."""
    with torch.device("meta"):
        networks = [
            SD3Transformer2DModel(**SD35_MEDIUM),
            T5EncoderModel(T5Config(**T5_XXL)),
            *(CLIPTextModelWithProjection(CLIPTextConfig(**shape)) for shape in CLIPS),
            AutoencoderKL(**SD35_VAE),
        ]
    return sum(one.numel() for network in networks for one in network.parameters())


def sd21_step(side: int) -> tuple[int, int]:
    """As `sd35_step`."""
    with torch.device("meta"):
        network = UNet2DConditionModel(**SD21_BASE)
        inputs: dict[str, Any] = {
            "sample": torch.empty(1, 4, side // 8, side // 8),
            "timestep": torch.empty(1),
            "encoder_hidden_states": torch.empty(1, 77, 1024),
        }
    return counted(network, inputs)


def counted(network: torch.nn.Module, inputs: dict[str, Any]) -> tuple[int, int]:
    """FLOP of one evaluation, and parameters."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(**inputs)
    return counter.get_total_flops(), sum(one.numel() for one in network.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=400, help="TFLOP/s that a GPU reaches")
    rate = parser.parse_args().rate
    print(f"| model | pixels | steps | TFLOP, no guidance | with | GPU-hours of {PICTURES:,} |")
    print("|---|---|---|---|---|---|")
    for name, step, steps, sides in (
        ("SD 3.5 medium", sd35_step, 40, (1024, 512)),
        ("SD 2.1 base", sd21_step, 50, (512,)),
    ):
        for side in sides:
            flop, parameters = step(side)
            once = flop * steps / 1e12
            hours = [cost * PICTURES / rate / 3600 for cost in (once, 2 * once)]
            print(
                f"| {name}, {parameters / 1e9:.2f}B | {side} | {steps} | {once:,.0f} | "
                f"{2 * once:,.0f} | {hours[0]:.1f}, {hours[1]:.1f} |"
            )


if __name__ == "__main__":
    main()
