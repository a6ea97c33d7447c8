"""The diffusion decoder in a model folder: vae/, unet/ or transformer/, and scheduler/, in the
format of diffusers.

Apart from the other boxes because captioning never imports diffusers, which takes seconds.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import SchedulerMixin

from vlv.checkpoints.components import brief, load_network
from vlv.errors import CheckpointError
from vlv.models.config import FamilyName
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.families import FAMILIES, load_family

_FLOW = "FlowMatch"


def load_diffusion_decoder(
    folder: Path,
    image_size: int,
    dtype: torch.dtype = torch.float32,
    family: FamilyName = "stable-diffusion",
) -> DiffusionDecoder:
    """Read the parts of a model folder; misfits are named."""
    known = load_family(family)
    vae = load_network(known.vae_class, folder / "vae", dtype)
    denoiser = load_network(known.denoiser_class, folder / FAMILIES[family].denoiser, dtype)
    scheduler = load_scheduler(folder / "scheduler", family)
    return DiffusionDecoder(vae, denoiser, scheduler, image_size, family).eval()


def load_scheduler(folder: Path, family: FamilyName = "stable-diffusion") -> SchedulerMixin:
    """Read a noise schedule: the file of any scheduler of diffusers with the family's kind of
    noise.

    Raises CheckpointError for a file that is missing or cannot be used (`noise_schedule`).
    """
    path = folder / "scheduler_config.json"
    if not path.is_file():
        raise CheckpointError(f"The file {path} is missing.")
    kind: Any = load_family(family).scheduler_class
    try:
        config = kind.load_config(folder, local_files_only=True)
    except Exception as error:  # whatever the library trips over in a file of unknown origin
        raise _unusable(path, brief(error)) from error
    return noise_schedule(config, family, path)


def noise_schedule(
    config: Mapping[str, Any], family: FamilyName, source: str | Path
) -> SchedulerMixin:
    """The noise schedule that a model of the family was trained on, of the config of any scheduler.
    source: of the config, for messages.

    Raises CheckpointError for a config that cannot be used; so is that of a flow for a model of
    DDPM noise, and the other way round: a model denoises only what it was trained on.
    """
    kind: Any = load_family(family).scheduler_class
    _check_noise(config, kind, source)
    try:
        if kind.__name__.startswith(_FLOW):
            # Solvers of other classes, which can follow a flow, call its shift so.
            config = {"shift": config.get("flow_shift", 1.0), **config}
        else:
            # Clipping is of pixel-space diffusion; a schedule that does not mention it never did.
            config = {"clip_sample": False, **config}
        scheduler: SchedulerMixin = kind.from_config(config)
    except Exception as error:
        raise _unusable(source, brief(error)) from error
    return scheduler


def _check_noise(config: Mapping[str, Any], kind: type, source: str | Path) -> None:
    written = str(config.get("_class_name", kind.__name__))
    if written.startswith("EDM"):
        raise _unusable(
            source,
            f"{written} is of a network whose inputs and outputs are scaled by the noise (EDM), "
            "and the denoising loss knows DDPM noise and flows only",
        )
    is_flow = (
        written.startswith(_FLOW)
        or config.get("prediction_type") == "flow_prediction"
        or bool(config.get("use_flow_sigmas"))
    )
    if is_flow != kind.__name__.startswith(_FLOW):
        noises = ("a flow", "DDPM noise")
        found, wanted = noises if is_flow else reversed(noises)
        raise _unusable(source, f"{written} is a schedule of {found}, and the model needs {wanted}")


def _unusable(source: str | Path, fault: str) -> CheckpointError:
    return CheckpointError(f"The noise schedule {source} cannot be used: {fault.rstrip('.')}.")
