"""Opening a model for use: which device, which precision. Weights load on first use."""

from pathlib import Path

import torch

from vlv.errors import ConfigError
from vlv.models.vlv import VLV

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def open_model(
    id_or_path: str | Path,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> VLV:
    """The model of an id or folder, on the best device there is unless one is named.

    dtype is a name of `DTYPES`; None means float32, in which every number of this project is
    measured.

    Raises:
        ConfigError: no such device or dtype.
        CheckpointError: no such model.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"there is no dtype {dtype!r}; use one of {', '.join(DTYPES)}")
    return VLV.from_pretrained(
        id_or_path,
        revision=revision,
        dtype=None if dtype is None else DTYPES[dtype],
        device=_best_device() if device is None else _checked_device(device),
    )


def _best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _checked_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        # Only an allocation tells whether the device can be used, and which one is missing.
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"the device {name!r} cannot be used here; `vlv doctor` lists those that can"
        ) from error
    return device
