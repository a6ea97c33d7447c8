"""The diffusion decoder in a model folder: vae/, unet/ and scheduler/, in diffusers' format.

Apart from the other boxes because captioning never imports diffusers, which takes seconds.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

from vlv.checkpoints.components import brief, load_network
from vlv.errors import CheckpointError
from vlv.models.diffusion_decoder import DiffusionDecoder


def load_diffusion_decoder(
    folder: Path, image_size: int, dtype: torch.dtype = torch.float32
) -> DiffusionDecoder:
    """Read vae/, unet/ and scheduler/ of a model folder; misfits are named."""
    vae = load_network(AutoencoderKL, folder / "vae", dtype)
    unet = load_network(UNet2DConditionModel, folder / "unet", dtype)
    return DiffusionDecoder(vae, unet, load_scheduler(folder / "scheduler"), image_size).eval()


def load_scheduler(folder: Path) -> DDPMScheduler:
    """Read a noise schedule; any diffusers scheduler's file will do."""
    path = folder / "scheduler_config.json"
    if not path.is_file():
        raise CheckpointError(f"The file {path} is missing.")
    try:
        config = DDPMScheduler.load_config(folder, local_files_only=True)
        # Clipping is of pixel-space diffusion; a schedule that does not mention it never clipped.
        return DDPMScheduler.from_config({"clip_sample": False, **config})
    except Exception as error:  # whatever the library trips over in a file of unknown origin
        raise CheckpointError(
            f"The noise schedule {path} cannot be used: {brief(error)}"
        ) from error
