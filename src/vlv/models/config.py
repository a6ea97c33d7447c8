"""Sizes and settings of a VLV model, and what its folder holds, as data. Knows no weights.

The dictionaries are keyword arguments of the libraries' own config classes, so that one code
serves every size; vocabulary sizes and special token ids come from the tokenizers, not from here.
"""

from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    ValidationError,
    field_validator,
    model_validator,
)

from vlv.errors import ConfigError
from vlv.yaml_files import read_yaml

# ImageNet statistics, which Florence-2's image processor uses.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
# Pixels a side that a model may see or draw, and the width of what flows between its boxes.
MAX_IMAGE_SIZE = 4096
MAX_WIDTH = 65_536

BoxName = Literal["encoder", "text_tower", "decoder", "caption_decoder"]
BOXES: tuple[BoxName, ...] = get_args(BoxName)
# What stands in vlv.json, each a subfolder of a model folder. The diffusion decoder has three.
Component = Literal[
    "encoder",
    "text_tower",
    "vae",
    "unet",
    "scheduler",
    "caption_decoder",
    "ood_detector",
    "verifier",
]
DECODER_COMPONENTS: tuple[Component, ...] = ("vae", "unet", "scheduler")
CaptionsFrom = Literal["c", "z"]
# Names of components in older model folders.
FORMER_NAMES: dict[str, Component] = {"familiarity": "ood_detector"}


class EncoderSettings(BaseModel):
    """What the VLV encoder adds to Florence-2: queries, prompt and image preprocessing.

    The encoder sees squares of image_size px. crop_size None squeezes the whole picture into that,
    as Florence-2's processor does; a number brings the shorter side to crop_size and takes the
    middle first, as the authors do (384 px, enlarged to 768).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    num_queries: int = Field(default=77, ge=1, le=4096)
    prompt: str = Field(default="<MORE_DETAILED_CAPTION>", max_length=2000)
    image_size: int = Field(default=64, ge=1, le=MAX_IMAGE_SIZE)
    crop_size: int | None = Field(default=None, ge=1, le=MAX_IMAGE_SIZE)
    image_mean: tuple[float, float, float] = IMAGE_MEAN
    image_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = IMAGE_STD


class EncoderDescription(EncoderSettings):
    """What is stored beside the encoder's weights; `embedding_width` is d, the width of z."""

    embedding_width: int = Field(ge=1, le=MAX_WIDTH)


class CaptionDecoderDescription(BaseModel):
    """What is stored beside psi; `conditioning_width` is d_T, the width of c."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    conditioning_width: int = Field(ge=1, le=MAX_WIDTH)


class EncoderConfig(EncoderSettings):
    """`EncoderSettings` and the arguments of `Florence2Config`.

    `florence` holds `vision_config` and `text_config`; the text config's `d_model` is the
    paper's D and must equal the vision config's `projection_dim`.
    """

    florence: dict[str, Any]

    @model_validator(mode="after")
    def _widths_agree(self) -> "EncoderConfig":
        projected = self.florence.get("vision_config", {}).get("projection_dim", 1024)
        width = self.florence.get("text_config", {}).get("d_model", 1024)
        if projected != width:
            raise ValueError(
                f"vision_config.projection_dim ({projected}) must equal "
                f"text_config.d_model ({width})"
            )
        return self

    def settings(self) -> EncoderSettings:
        """The settings without Florence-2's own arguments."""
        return EncoderSettings(**self.model_dump(exclude={"florence"}))


class ModelSettings(BaseModel):
    """What no component's own config says.

    captions_from: what the caption decoder reads. It is z in a model that was trained to caption
    without the text tower, for comparison.
    """

    model_config = ConfigDict(extra="forbid")

    decoder_image_size: int = Field(default=64, ge=8, le=MAX_IMAGE_SIZE)
    captions_from: CaptionsFrom = "c"


class AdapterRecord(BaseModel):
    """What the folder of a fine-tune says of itself: it changes the caption decoder of `base`.

    base: an id of the package or of the Hub, with its revision, or the path of a folder, of whose
    weights `base_sha256` is a hash. method: a LoRA beside psi, or the caption decoder as a whole.
    crop_size: what the encoder sees, as in `EncoderSettings`.
    """

    model_config = ConfigDict(extra="forbid")

    base: str = Field(min_length=1)
    revision: str | None = None
    base_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    base_models: dict[str, str] = Field(default_factory=dict)
    method: Literal["lora", "full"] = "lora"
    crop_size: int | None = Field(default=None, ge=1, le=MAX_IMAGE_SIZE)


class Manifest(BaseModel):
    """vlv.json: what the folder holds and where it came from; with `adapter`, what a fine-tune
    changes in another model.
    """

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1] = 1
    config: ModelSettings = Field(default_factory=ModelSettings)
    components: list[Component]
    adapter: AdapterRecord | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)

    @field_validator("components", mode="before")
    @classmethod
    def _current_names(cls, components: Any) -> Any:
        if not isinstance(components, list):
            return components
        return [FORMER_NAMES.get(x, x) if isinstance(x, str) else x for x in components]

    @field_validator("provenance")
    @classmethod
    def _records_by_name(cls, provenance: dict[str, Any]) -> dict[str, Any]:
        for name in ("stages", "parts"):
            if not isinstance(provenance.get(name, {}), dict):
                raise ValueError(f"{name} is no object")
        return provenance


class VLVConfig(BaseModel):
    """Everything needed to build a VLV model with fresh weights.

    text_tower: CLIPTextConfig; unet: UNet2DConditionModel; vae: AutoencoderKL;
    scheduler: DDPMScheduler; language_model: Qwen2Config.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: EncoderConfig
    text_tower: dict[str, Any]
    unet: dict[str, Any]
    vae: dict[str, Any]
    scheduler: dict[str, Any]
    language_model: dict[str, Any]
    decoder_image_size: int = Field(default=64, ge=8, le=MAX_IMAGE_SIZE)

    @model_validator(mode="after")
    def _boxes_fit(self) -> "VLVConfig":
        width = self.text_tower.get("hidden_size", 512)
        crossed = self.unet.get("cross_attention_dim", 1280)
        if width != crossed:
            raise ValueError(
                f"unet.cross_attention_dim ({crossed}) must equal text_tower.hidden_size ({width})"
            )
        latent = self.vae.get("latent_channels", 4)
        for key in ("in_channels", "out_channels"):
            channels = self.unet.get(key, 4)
            if channels != latent:
                raise ValueError(
                    f"unet.{key} ({channels}) must equal vae.latent_channels ({latent})"
                )
        positions = self.text_tower.get("max_position_embeddings", 77)
        if self.encoder.num_queries > positions:
            raise ValueError(
                f"encoder.num_queries ({self.encoder.num_queries}) must not exceed "
                f"text_tower.max_position_embeddings ({positions})"
            )
        return self

    @classmethod
    def from_yaml(cls, path: str | Path) -> "VLVConfig":
        """Read a config file; every fault is a `ConfigError` that names file and field."""
        data = read_yaml(Path(path), f"The model config {path}", ConfigError)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole file"
            raise ConfigError(
                f"The model config {path} is wrong at {where}: {first['msg']}."
            ) from error
