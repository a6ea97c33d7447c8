"""Families of text-to-image models, a file each.

A family provides the latent codec, the noise process and the denoiser that `DiffusionDecoder` is
made of, and names the text tower's slots. `_class_name` of model_index.json picks it.
"""

from importlib import import_module
from types import ModuleType

from vlv.errors import CheckpointError

# The pipeline's class in diffusers -> the module of its family.
FAMILIES = {"StableDiffusionPipeline": "vlv.models.families.stable_diffusion"}


def family_of(pipeline: str) -> ModuleType:
    """The family of a pipeline of diffusers.

    Raises CheckpointError for a pipeline of no supported family.
    """
    if pipeline not in FAMILIES:
        raise CheckpointError(
            f"{pipeline} is of no supported family of text-to-image models; the pipelines are "
            f"{', '.join(FAMILIES)}."
        )
    return import_module(FAMILIES[pipeline])
