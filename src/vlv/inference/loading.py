"""Opens a model for use: the device, the precision, and whether the model fits the memory.

Weights load on first use; the memory that they need is reported before.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import torch

from vlv.checkpoints.hub import USUAL_DOWNLOAD, DownloadOptions
from vlv.checkpoints.memory import Need, Work, free_memory, needed
from vlv.checkpoints.opening import load_model
from vlv.checkpoints.parts import BitsAndBytes, Quantization
from vlv.checkpoints.sizes import folder_sizes
from vlv.errors import ConfigError
from vlv.models.config import BoxName
from vlv.models.precision import chosen_device, computes_bfloat16
from vlv.models.vlv import VLVModel
from vlv.text import printable

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# With more parameters, half the memory and twice the speed matter more than the last digits.
_FULL_SIZE = 1_000_000_000
# A smaller need is not reported.
_REPORTED_FROM = 1_000_000_000
_NAMES: dict[BoxName, str] = {
    "encoder": "encoder",
    "text_tower": "text tower",
    "decoder": "U-Net and VAE",
    "caption_decoder": "language model",
}


def open_model(
    id_or_path: str | Path,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    quantization: str | None = None,
    offload: bool = False,
    work: Work | None = None,
    log: Callable[[str], None] | None = None,
    base_models: Mapping[str, str | Path] | None = None,
    download: DownloadOptions = USUAL_DOWNLOAD,
) -> VLVModel:
    """Open the model of an id or folder.

    device: None is the best one that is available. dtype: one of `DTYPES`; None is bfloat16 for
    a model of over a billion parameters on a device that computes in it, and float32 otherwise.
    quantization: "8bit", "4bit" or, on CPUs, "int8", of the language model. offload: keep one box
    at a time on the device. work: what the model will do; None is everything that it can do. log:
    receives lines about the memory that this work needs, if it is over 1 GB; None prints them on
    standard error.
    A model that seems not to fit is opened nevertheless.

    Raises:
        ConfigError: the device, dtype or quantization does not exist.
        CheckpointError: there is no such model.
    """
    chosen_dtype = named_dtype(dtype)
    model = load_model(
        id_or_path,
        revision=revision,
        dtype=chosen_dtype,
        device=chosen_device(device),
        quantization=_checked_quantization(quantization),
        offload=offload,
        base_models=base_models,
        download=download,
    )
    if chosen_dtype is None and computes_bfloat16(model.device) and _is_full_size(model):
        model.dtype = torch.bfloat16
    for line in memory_lines(model, work or Work()):
        (log or _print)(line)
    return model


def named_dtype(given: torch.dtype | str | None) -> torch.dtype | None:
    """One of `DTYPES`, given by its name or as itself; None where none is given.

    Raises:
        ConfigError: it is none of them.
    """
    if given is None:
        return None
    name = str(given).removeprefix("torch.")
    if name not in DTYPES:
        raise ConfigError(f"there is no dtype {name!r}; use one of {', '.join(DTYPES)}")
    return DTYPES[name]


def memory_lines(model: VLVModel, work: Work, free: int | None = None) -> list[str]:
    """Lines about the memory that a model from a folder needs for some work and, if that is more
    than the `free` bytes of its device, about the options that lower the need.

    free: None is what the device has free now. There are no lines for a need under 1 GB.
    """
    if model.folder is None:
        return []
    need = needed(model.folder, work, model.dtype, model.quantization, _apart(model), model.device)
    if need.total < _REPORTED_FROM:
        return []
    free = free_memory(model.device) if free is None else free
    lines = [
        f"needs about {_gigabytes(need.total)} GB ({_parts(need)}); {_gigabytes(free)} GB are "
        f"free on {model.device}"
    ]
    if need.total > free:
        lines.append(f"this may not fit; what lowers it: {'; '.join(_ways(model, work, need))}")
    return lines


def _is_full_size(model: VLVModel) -> bool:
    if model.folder is None:
        return False
    return sum(one.values for one in folder_sizes(model.folder).values()) > _FULL_SIZE


def _apart(model: VLVModel) -> bool:
    """Whether boxes wait in another memory than the device's. A CPU and Apple's GPUs have one
    memory.
    """
    return model.offload and model.device.type == "cuda"


def _parts(need: Need) -> str:
    parts = [f"{_NAMES[box]} {_gigabytes(size)}" for box, size in need.weights.items()]
    if need.offload:
        parts = [f"one at a time of {', '.join(parts)}"]
    return ", ".join([*parts, f"working memory {_gigabytes(need.working)}"])


def _ways(model: VLVModel, work: Work, need: Need) -> list[str]:
    """The options that lower the need, each with the need that results."""
    assert model.folder is not None
    dtype, quantization = model.dtype, model.quantization
    needs = partial(needed, model.folder, device=model.device)
    tried: dict[str, Need] = {}
    if dtype == torch.float32:
        dtype = torch.bfloat16
        tried["--dtype bfloat16"] = needs(work, dtype, quantization, need.offload)
    also = "" if dtype == model.dtype else " with --dtype bfloat16"
    if "caption_decoder" in need.weights and quantization is None and not model.offload:
        for bits in get_args(BitsAndBytes):
            tried[f"--quantization {bits}{also}"] = needs(work, dtype, bits)
    if model.device.type == "cuda" and quantization is None and not model.offload:
        tried[f"--offload{also}"] = needs(work, dtype, offload=True)
    if work.batch_size > 1:
        one = replace(work, batch_size=1)
        tried[f"--batch-size 1{also}"] = needs(one, dtype, quantization, need.offload)
    return [
        f"{option} ({_gigabytes(then.total)} GB)"
        for option, then in tried.items()
        if then.total < need.total
    ] or ["a model with a smaller language model"]


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f}"


def _print(line: str) -> None:
    print(f"vlv: {printable(line)}", file=sys.stderr)


def _checked_quantization(name: str | None) -> Quantization | None:
    if name is None:
        return None
    known: tuple[Quantization, ...] = get_args(Quantization)
    for one in known:
        if one == name:
            return one
    raise ConfigError(f"there is no quantization {name!r}; use one of {', '.join(known)}")
