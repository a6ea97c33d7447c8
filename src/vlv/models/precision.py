"""What a device is, and which number type and attention kernel are fast on it. Knows no model."""

import platform
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator
from transformers import PreTrainedModel

from vlv.errors import ConfigError

# YAML reads a bare `no` as false.
Precision = Annotated[
    Literal["no", "bf16", "auto"], BeforeValidator(lambda wish: "no" if wish is False else wish)
]


def computes_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is a type that the device itself computes in.

    A CPU that lacks the instructions takes about a hundred times as long in it as in float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return any(_cpu().get(name, False) for name in _CPU_INSTRUCTIONS)
    return False


def computes_int8(device: torch.device) -> bool:
    """Whether a device is a CPU that multiplies bytes fast; older ones overflow at it."""
    return device.type == "cpu" and any(_cpu().get(name, False) for name in _BYTE_INSTRUCTIONS)


def gains_from_packing(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products are faster with weights in oneDNN's own order: in bfloat16, on x86 CPUs
    that compute in it. Elsewhere no gain was measured.
    """
    if device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    in_bfloat16 = dtype == torch.bfloat16 and computes_bfloat16(device)
    return in_bfloat16 and torch.backends.mkldnn.is_available()


_BYTE_INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8")
# x86, then ARM, as PyTorch names them.
_CPU_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")


def device_name(device: torch.device) -> str:
    """The maker's name of a GPU or CPU, where it is known."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return str(_cpu().get("cpu_name") or platform.processor() or platform.machine())


def _cpu() -> Mapping[str, Any]:
    """What torch reports of the CPU; older versions report nothing."""
    ask: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return ask()


def mixed_precision(wish: Precision, device: torch.device) -> Literal["no", "bf16"]:
    """`auto` as what it means on a device: bf16 where that is fast; the others as they are."""
    if wish == "auto":
        return "bf16" if computes_bfloat16(device) else "no"
    return wish


def use_fast_attention(module: torch.nn.Module, device: torch.device) -> None:
    """Choose plain matrix products over the fused kernel where the fused one is slow: on CPUs.
    `device` is the one that the module will compute on.

    In bfloat16, at the mini model's sizes, PyTorch's fused CPU kernel takes three times as long
    (`benchmarks/attention.py`); on other devices the fused one is the library's default and stays.
    """
    # Captioning asks for the precision of a device, and needs nothing of diffusers.
    from diffusers.models.attention import AttentionMixin
    from diffusers.models.attention_processor import (
        AttnProcessor,
        AttnProcessor2_0,
        JointAttnProcessor2_0,
    )

    from vlv.models.plain_attention import PlainAttention

    if device.type != "cpu":
        return
    for part in module.modules():
        if isinstance(part, AttentionMixin):
            kinds = {type(one) for one in part.attn_processors.values()}
            if kinds <= {AttnProcessor, AttnProcessor2_0}:
                part.set_attn_processor(AttnProcessor())
            elif kinds == {JointAttnProcessor2_0}:
                # Of transformers in which latents and text attend to each other, as in SD 3.
                part.set_attn_processor(PlainAttention(JointAttnProcessor2_0()))
        elif isinstance(part, PreTrainedModel):
            part.set_attn_implementation("eager")


def use_faster_attention(network: PreTrainedModel, device: torch.device) -> None:
    """Choose the attention that is faster for inference on a device, in the network's own dtype.

    The fused kernel is, but for bfloat16 on CPUs: there Florence-2 takes 2 to 6% less time with
    plain matrix products (`benchmarks/encoder_attention.py`).
    """
    plain = device.type == "cpu" and network.dtype == torch.bfloat16
    network.set_attn_implementation("eager" if plain else "sdpa")


def chosen_device(name: str | None) -> torch.device:
    """The device of a name, or the best one where there is no name: a GPU, else the CPU. Raises
    ConfigError for one that cannot be used here.
    """
    if name is not None:
        return checked_device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def checked_device(name: torch.device | str) -> torch.device:
    """The device of a name. Raises ConfigError for one that cannot be used here."""
    try:
        device = torch.device(name)
        # Only an allocation shows whether the device can be used, or which driver is missing.
        torch.empty(1, device=device)
    # A TypeError is of what is no device, such as a dtype.
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ConfigError(
            f"the device {str(name)!r} cannot be used here; `vlv doctor` lists those that can"
        ) from error
    return device


def out_of_memory(error: Exception) -> bool:
    """Whether work failed because a device or the computer has no more memory."""
    from accelerate.utils.memory import should_reduce_batch_size

    known = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, known) or should_reduce_batch_size(error)
