"""Which attention kernel to compute with. Knows no model of ours."""

import torch
from diffusers.models.attention import AttentionMixin
from diffusers.models.attention_processor import AttnProcessor
from transformers import PreTrainedModel


def use_fast_attention(module: torch.nn.Module, device: torch.device) -> None:
    """Choose plain matrix products over the fused kernel where the fused one is slow: on CPUs.
    `device` is the one that the module will compute on.

    In bfloat16, at the mini model's sizes, PyTorch's fused CPU kernel takes three times as long
    (`benchmarks/attention.py`); on other devices the fused one is the library's default and stays.
    """
    if device.type != "cpu":
        return
    for part in module.modules():
        if isinstance(part, AttentionMixin):
            part.set_attn_processor(AttnProcessor())
        elif isinstance(part, PreTrainedModel):
            part.set_attn_implementation("eager")
