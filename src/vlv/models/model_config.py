"""The sizes of a whole model, from which it is built with fresh weights.

The dictionaries are keyword arguments of the libraries' own config classes, so that one code
serves every size; vocabulary sizes and special token ids come from the tokenizers, not from here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vlv.errors import ConfigError
from vlv.models.config import MAX_IMAGE_SIZE, EncoderConfig, FamilyName, TextEncoderName
from vlv.models.families import FAMILIES, load_family
from vlv.text import first_fault
from vlv.yaml_files import read_yaml


class VLVConfig(BaseModel):
    """Everything needed to build a VLV model with fresh weights.

    family: that of the text-to-image model, whose classes the next ones configure. text_tower:
    arguments of its text encoder, or of each of several by name. unet or transformer: those of its
    denoiser. language_model: Qwen2Config.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: EncoderConfig
    family: FamilyName = "stable-diffusion"
    text_tower: dict[str, Any]
    unet: dict[str, Any] | None = None
    transformer: dict[str, Any] | None = None
    vae: dict[str, Any]
    scheduler: dict[str, Any]
    language_model: dict[str, Any]
    decoder_image_size: int = Field(default=64, ge=8, le=MAX_IMAGE_SIZE)

    @property
    def denoiser(self) -> dict[str, Any]:
        """Arguments of the denoiser's class."""
        found = self.unet if FAMILIES[self.family].denoiser == "unet" else self.transformer
        return found or {}

    @property
    def text_encoders(self) -> Mapping[TextEncoderName, dict[str, Any]]:
        """Arguments of each text encoder by its name."""
        names = FAMILIES[self.family].text_encoders
        if names == ("text_tower",):
            return {"text_tower": self.text_tower}
        return {name: self.text_tower[name] for name in names if name in self.text_tower}

    @model_validator(mode="after")
    def _parts_of_the_family(self) -> "VLVConfig":
        record = FAMILIES[self.family]
        for name, given in (("unet", self.unet), ("transformer", self.transformer)):
            if (given is not None) != (name == record.denoiser):
                raise ValueError(
                    f"the denoiser of the family {self.family} is the {record.denoiser}: "
                    f"{'leave out' if given is not None else 'set'} {name}"
                )
        if record.text_encoders != ("text_tower",):
            names, known = set(self.text_tower), set(record.text_encoders)
            if not known - set(record.optional) <= names <= known:
                raise ValueError(
                    f"text_tower of the family {self.family} has {', '.join(record.text_encoders)},"
                    f" not {', '.join(sorted(names))}"
                )
        return self

    @model_validator(mode="after")
    def _boxes_fit(self) -> "VLVConfig":
        fault = load_family(self.family).widths_fault(self.text_encoders, self.denoiser)
        if fault is not None:
            raise ValueError(fault)
        denoiser = FAMILIES[self.family].denoiser
        latent = self.vae.get("latent_channels", 4)
        packing = FAMILIES[self.family].packing
        for key in ("in_channels", "out_channels"):
            channels = self.denoiser.get(key, latent * packing if denoiser != "unet" else 4)
            if channels != latent * packing:
                times = f"{packing} times " if packing > 1 else ""
                raise ValueError(
                    f"{denoiser}.{key} ({channels}) must equal {times}vae.latent_channels "
                    f"({latent})"
                )
        for name, config in self.text_encoders.items():
            positions = config.get("max_position_embeddings", 77)
            if self.encoder.num_queries > positions:
                raise ValueError(
                    f"encoder.num_queries ({self.encoder.num_queries}) must not exceed "
                    f"{name}.max_position_embeddings ({positions})"
                )
        return self

    @classmethod
    def from_yaml(cls, path: str | Path) -> "VLVConfig":
        """Read a config file; every fault is a `ConfigError` that names file and field."""
        data = read_yaml(Path(path), f"The model config {path}", ConfigError)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            fault = first_fault(error, "the whole file")
            raise ConfigError(f"The model config {path} is wrong at {fault}.") from error
