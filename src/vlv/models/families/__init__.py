"""Families of text-to-image models, a file each.

A family provides what differs among text-to-image models in small pieces: the text tower, the noise
process and the denoiser; and how the library's pipeline is called. Latent codecs are shared.

Here is the table of them, which loads neither torch nor diffusers. `_class_name` of
model_index.json picks a family for a published model, `family` in vlv.json for a model folder.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from vlv.errors import CheckpointError
from vlv.models.config import Component, FamilyName, TextEncoderName

if TYPE_CHECKING:
    from vlv.models.families.family import Family


@dataclass(frozen=True)
class FamilyRecord:
    """What is known of a family without loading it.

    pipeline: the class of diffusers that draws. denoiser: the component that removes noise.
    text_encoders: names of the text tower's encoders, the optional ones may be missing in a folder.
    packing: positions of latents that are one to the denoiser. negative_prompt: whether guidance is
    away from the prediction without a text; if not, its scale is an input of the denoiser.
    """

    module: str
    pipeline: str
    denoiser: Component
    text_encoders: tuple[TextEncoderName, ...]
    optional: tuple[TextEncoderName, ...] = ()
    packing: int = 1
    negative_prompt: bool = True

    @property
    def components(self) -> tuple[Component, ...]:
        """What the diffusion decoder consists of."""
        return ("vae", self.denoiser, "scheduler")

    @property
    def required(self) -> list[TextEncoderName]:
        """The text encoders that every folder has."""
        return [name for name in self.text_encoders if name not in self.optional]


FAMILIES: dict[FamilyName, FamilyRecord] = {
    "stable-diffusion": FamilyRecord(
        "stable_diffusion", "StableDiffusionPipeline", "unet", ("text_tower",)
    ),
    "sdxl": FamilyRecord(
        "sdxl", "StableDiffusionXLPipeline", "unet", ("text_encoder", "text_encoder_2")
    ),
    "sd3": FamilyRecord(
        "sd3",
        "StableDiffusion3Pipeline",
        "transformer",
        ("text_encoder", "text_encoder_2", "text_encoder_3"),
        optional=("text_encoder_3",),
    ),
    "sana": FamilyRecord("sana", "SanaPipeline", "transformer", ("text_encoder",)),
    "flux": FamilyRecord(
        "flux",
        "FluxPipeline",
        "transformer",
        ("text_encoder", "text_encoder_2"),
        packing=4,
        negative_prompt=False,
    ),
}


def load_family(name: FamilyName) -> "Family":
    """A family by its name."""
    found: Family = import_module(f"vlv.models.families.{FAMILIES[name].module}").FAMILY
    return found


def family_of(pipeline: str) -> FamilyName:
    """The family of a pipeline of diffusers.

    Raises CheckpointError for a pipeline of no supported family.
    """
    for name, record in FAMILIES.items():
        if record.pipeline == pipeline:
            return name
    raise CheckpointError(
        f"{pipeline} is of no supported family of text-to-image models; the pipelines are "
        f"{', '.join(record.pipeline for record in FAMILIES.values())}."
    )
