"""Tiny text-to-image pipelines with random weights, saved as diffusers has them: Stable Diffusion 2
and Stable Diffusion 3. The classes are the real ones.
"""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tests.tiny import TEXTS, TINY
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from vlv.models.tokenizers import train_clip_tokenizer

SIDE = 32


def save_stable_diffusion_2(folder: Path) -> None:
    torch.manual_seed(0)
    tokenizer = train_clip_tokenizer(TEXTS)
    tower = CLIPTextConfig(
        **TINY["text_tower"],  # type: ignore[arg-type]
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
    )
    StableDiffusionPipeline(
        vae=AutoencoderKL(**TINY["vae"]),  # type: ignore[arg-type]
        text_encoder=CLIPTextModel(tower),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**TINY["unet"]),  # type: ignore[arg-type]
        scheduler=DDIMScheduler(**TINY["scheduler"]),  # type: ignore[arg-type]
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def save_stable_diffusion_3(folder: Path) -> None:
    torch.manual_seed(0)
    tokenizer = train_clip_tokenizer(TEXTS)
    tower = CLIPTextConfig(
        **TINY["text_tower"],  # type: ignore[arg-type]
        vocab_size=len(tokenizer),
        projection_dim=16,
        eos_token_id=tokenizer.eos_token_id,
    )
    pieces = sorted({"▁" + word for text in TEXTS for word in text.split()})
    letters = ["▁", *map(chr, range(33, 127))]
    t5 = T5Tokenizer(
        vocab=[(piece, -1.0) for piece in ["<pad>", "</s>", "<unk>", *letters, *pieces]],
        extra_ids=0,
    )
    StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=4,
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=32,
            pos_embed_max_size=8,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKL(**TINY["vae"], shift_factor=0.1),  # type: ignore[arg-type]
        text_encoder=CLIPTextModelWithProjection(tower),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(tower),
        tokenizer_2=tokenizer,
        text_encoder_3=T5EncoderModel(
            T5Config(vocab_size=len(t5), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        ),
        tokenizer_3=t5,
    ).save_pretrained(folder)
