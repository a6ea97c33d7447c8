"""Tiny published parts: folders in the layouts of the Hub's repositories, with random weights."""

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    PNDMScheduler,
    SchedulerMixin,
    UNet2DConditionModel,
)
from tests.models.families.gemma_tokenizer import gemma_tokenizer
from tests.models.families.tiny_families import TINY_FAMILIES
from tests.tiny import TEXTS, TINY, spread
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    Florence2Config,
    Florence2ForConditionalGeneration,
)

from vlv.models.config import FamilyName
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.families import FAMILIES, load_family
from vlv.models.model_config import VLVConfig
from vlv.models.tokenizers import (
    train_clip_tokenizer,
    train_florence_tokenizer,
    train_qwen2_tokenizer,
)

Sizes = dict[str, Any]

LANGUAGE_MODELS: dict[str, Sizes] = {
    "qwen2": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": True},
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": False},
    "qwen3_5_text": {
        "layer_types": ["linear_attention", "full_attention"],
        "head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
}
# Those whose states are in no cache that captions could be written with.
OTHER_LANGUAGE_MODELS: dict[str, Sizes] = {"mamba": {}, "rwkv": {}, "recurrent_gemma": {}}

_PUBLISHED_SCHEDULERS: dict[FamilyName, SchedulerMixin] = {
    "stable-diffusion": PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    ),
    "sana": DPMSolverMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    ),
}


def florence_folder(folder: Path, vision: Sizes | None = None) -> Path:
    """Florence-2 as a model with its head over words, as it is published."""
    torch.manual_seed(0)
    tokenizer = train_florence_tokenizer(TEXTS)
    sizes = TINY["encoder"]["florence"]
    text = {**sizes["text_config"], "model_type": "bart", "vocab_size": len(tokenizer) + 3}
    vision = {**sizes["vision_config"], **(vision or {})}
    config = Florence2Config(vision_config=vision, text_config=text)
    Florence2ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(
        size={"height": 32, "width": 32},
        do_center_crop=False,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
    return folder


def diffusion_folder(
    folder: Path,
    width: int = 16,
    prediction_type: str = "epsilon",
    text: Sizes | None = None,
    unet: Sizes | None = None,
) -> Path:
    """Stable Diffusion in diffusers' layout, its tokenizer in the older one of two text files."""
    torch.manual_seed(1)
    tokenizer = train_clip_tokenizer(TEXTS)
    sizes = {**TINY["text_tower"], "hidden_size": width, "vocab_size": len(tokenizer)}
    CLIPTextModel(CLIPTextConfig(**{**sizes, **(text or {})})).save_pretrained(
        folder / "text_encoder"
    )
    tokenizer.save_pretrained(folder / "tokenizer")
    AutoencoderKL(**TINY["vae"]).save_pretrained(folder / "vae")
    sizes = {**TINY["unet"], "cross_attention_dim": width, **(unet or {})}
    UNet2DConditionModel(**sizes).save_pretrained(folder / "unet")
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    scheduler.save_pretrained(folder / "scheduler")
    return folder


def pipeline_folder(
    folder: Path, family: FamilyName, scheduler: SchedulerMixin | None = None
) -> Path:
    """A whole pipeline of a family, as the library's own `save_pretrained` writes it; scheduler:
    None is one that is published with such models.
    """
    torch.manual_seed(3)
    config = VLVConfig.model_validate(TINY_FAMILIES[family])
    tokenizer = gemma_tokenizer() if family == "sana" else train_clip_tokenizer(TEXTS)
    tower = load_family(family).fresh_text_tower(config.text_encoders, tokenizer)
    decoder = DiffusionDecoder.from_config(
        config.vae, config.denoiser, config.scheduler, config.decoder_image_size, family
    )
    spread(tower, decoder.denoiser, generator=torch.Generator().manual_seed(4))
    record = FAMILIES[family]
    parts: dict[str, Any] = dict(decoder.family.pipeline_parts())
    for name in tower.encoders:
        place = name.replace("text_tower", "text_encoder")
        parts[place] = tower.encoders[name]
        parts[place.replace("text_encoder", "tokenizer")] = tower.tokenizers[name]
    pipeline = getattr(diffusers, record.pipeline)(
        vae=decoder.vae,
        scheduler=scheduler or _PUBLISHED_SCHEDULERS.get(family, decoder.scheduler),
        **{record.denoiser: decoder.denoiser},
        **parts,
    )
    pipeline.save_pretrained(folder)
    return folder


def language_model_folder(folder: Path, kind: str = "qwen2", sizes: Sizes | None = None) -> Path:
    """A causal language model of the given type; in shards, as large ones are."""
    torch.manual_seed(2)
    tokenizer = train_qwen2_tokenizer(TEXTS)
    kinds = LANGUAGE_MODELS | OTHER_LANGUAGE_MODELS
    config = AutoConfig.for_model(
        kind,
        **{**TINY["language_model"], **kinds[kind], **(sizes or {})},
        vocab_size=len(tokenizer) + 5,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder, max_shard_size="20KB")
    tokenizer.save_pretrained(folder)
    return folder
