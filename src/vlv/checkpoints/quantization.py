"""A language model in 8 or 4 bits, by bitsandbytes through transformers' own loader.

Knows nothing of VLV's boxes. Only weights of linear layers are compressed; token embeddings, norms
and the head over words keep the model's dtype.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from vlv.checkpoints.components import load_published
from vlv.checkpoints.parts import BitsAndBytes
from vlv.errors import ConfigError

# It reports on every layer of every step that 8-bit layers compute in float16.
logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def load_quantized(
    kind: type[PreTrainedModel],
    folder: Path,
    dtype: torch.dtype,
    quantization: BitsAndBytes,
    device: torch.device,
) -> PreTrainedModel:
    """A language model on its device, where it has to stay.

    Raises ConfigError where bitsandbytes is missing, and CheckpointError as `load_published` does.
    """
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"a language model in {quantization} needs bitsandbytes, which is not installed; run: "
            "pip install 'vlv[quantization]'"
        )
    settings: dict[BitsAndBytes, dict[str, Any]] = {
        "8bit": {"load_in_8bit": True},
        "4bit": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": dtype,
        },
    }
    with no_progress_bar():
        model: PreTrainedModel = load_published(
            kind,
            folder,
            dtype,
            quantization_config=BitsAndBytesConfig(**settings[quantization]),
            device_map={"": device},
        )
    return model


def keep_trainable(model: PreTrainedModel) -> None:
    """Let gradients pass through 4-bit layers on CPUs after they were used without: bitsandbytes
    would repack the weights for a product that has no gradient (AVX-512 with bfloat16).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """While weights are loaded, transformers shows none."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
