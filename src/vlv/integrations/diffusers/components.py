"""The components of a VLV's pipeline: those of its family, and the VLV encoder."""

from typing import Any, ClassVar

from diffusers import DiffusionPipeline

from vlv.models.config import TextEncoderName
from vlv.models.families.family import Family
from vlv.models.text_tower import ConditioningEntry, TextTower
from vlv.pipeline import VLV


class Components(DiffusionPipeline):
    """What a VLV's pipeline consists of, whatever its family."""

    family: ClassVar[Family]
    encoder: Any
    vae: Any
    scheduler: Any
    _opened: VLV | None

    @property
    def denoiser(self) -> Any:
        """The U-Net or transformer."""
        return getattr(self, self.family.record.denoiser)

    @property
    def image_size(self) -> int:
        """Pixels a side of what it draws, unless `height` and `width` say otherwise."""
        if self._opened is not None:
            return self._opened.decoder.image_size
        # The transformer of FLUX.1 does not say it; its pipeline does.
        latents = self.denoiser.config.get("sample_size") or self.default_sample_size
        return int(latents) * int(self.vae_scale_factor)

    @property
    def text_tower(self) -> TextTower:
        """T: z or texts -> c, with the text encoders of this pipeline."""
        encoders = self._text_encoders()
        tokenizers = {
            name: getattr(self, tokenizer_name(component_name(name))) for name in encoders
        }
        tower = self.family.text_tower(encoders, tokenizers)
        if self._opened is not None and self._opened.text_tower.entry == "conditioning":
            return ConditioningEntry(tower)
        return tower

    def _text_encoders(self) -> dict[TextEncoderName, Any]:
        found = {
            name: getattr(self, component_name(name)) for name in self.family.record.text_encoders
        }
        return {name: encoder for name, encoder in found.items() if encoder is not None}


def component_name(name: TextEncoderName) -> str:
    """The component of diffusers that a text encoder is."""
    return "text_encoder" if name == "text_tower" else name


def tokenizer_name(part: str) -> str:
    """The component of diffusers that is the tokenizer of a text encoder there."""
    return part.replace("text_encoder", "tokenizer")
