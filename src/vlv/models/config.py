"""Sizes and settings of a VLV model, and what its folder holds, as data. Knows no weights.

The dictionaries are keyword arguments of the libraries' own config classes, so that one code
serves every size; vocabulary sizes and special token ids come from the tokenizers, not from here.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    field_validator,
    model_validator,
)

# ImageNet statistics, which Florence-2's image processor uses.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
# Pixels a side that a model may see or draw, and the width of what flows between its boxes.
MAX_IMAGE_SIZE = 4096
MAX_WIDTH = 65_536

BoxName = Literal["encoder", "text_tower", "decoder", "caption_decoder"]
BOXES: tuple[BoxName, ...] = get_args(BoxName)
# What stands in vlv.json, each a subfolder of a model folder. The diffusion decoder has three: VAE,
# scheduler, and a U-Net or a transformer.
Component = Literal[
    "encoder",
    "text_tower",
    "vae",
    "unet",
    "transformer",
    "scheduler",
    "caption_decoder",
    "ood_detector",
    "verifier",
]
# Families of text-to-image models (`vlv.models.families`).
FamilyName = Literal["stable-diffusion", "sdxl", "sd3", "sana", "flux"]
# Text encoders of their text towers: the only one, or each of several by diffusers' name.
TextEncoderName = Literal["text_tower", "text_encoder", "text_encoder_2", "text_encoder_3"]
CaptionsFrom = Literal["c", "z"]
# Samplers by the names that every door knows, and what pictures are drawn with where nothing else
# is asked for (docs/reconstruction.md); a family of flows has a sampler of its own for that.
SchedulerName = Literal["ddim", "ddpm", "dpm++", "dpm++sde", "euler"]
SCHEDULERS: tuple[SchedulerName, ...] = get_args(SchedulerName)
SCHEDULER: SchedulerName = "dpm++sde"
NUM_INFERENCE_STEPS = 25
# The share of the timesteps after which a caption takes the place of z, where one is given.
CAPTION_START = 0.7
# Where z enters the text-to-image model: in place of token embeddings, or of c itself.
Entry = Literal["embeddings", "conditioning"]
# Names of components in older model folders.
FORMER_NAMES: dict[str, Component] = {"familiarity": "ood_detector"}


def _is_none(value: Any) -> bool:
    return value is None


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
    """What is stored beside the encoder's weights: `embedding_width` is d, the width of z; where z
    consists of several slots, `slots` has the width of each.
    """

    embedding_width: int | None = Field(default=None, ge=1, le=MAX_WIDTH, exclude_if=_is_none)
    slots: dict[str, Annotated[int, Field(ge=1, le=MAX_WIDTH)]] | None = Field(
        default=None, min_length=2, max_length=8, exclude_if=_is_none
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> "EncoderDescription":
        if (self.embedding_width is None) == (self.slots is None):
            raise ValueError("either embedding_width or slots says how wide z is")
        return self

    @classmethod
    def of(cls, settings: EncoderSettings, slots: Mapping[str, int]) -> "EncoderDescription":
        """The description of an encoder with these slots."""
        widths: dict[str, Any] = {"slots": dict(slots)}
        if len(slots) == 1:
            widths = {"embedding_width": next(iter(slots.values()))}
        return cls(**settings.model_dump(), **widths)

    @property
    def settings(self) -> EncoderSettings:
        """The settings alone."""
        return EncoderSettings(**self.model_dump(exclude={"embedding_width", "slots"}))

    @property
    def slot_widths(self) -> dict[str, int]:
        """Widths of the slots of z by name; one slot has the name z."""
        return self.slots or {"z": self.embedding_width or 0}


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
    without the text tower, for comparison. family: that of the text-to-image model. entry: with
    "conditioning", the encoder writes c directly, and the text tower reads texts alone.
    """

    model_config = ConfigDict(extra="forbid")

    decoder_image_size: int = Field(default=64, ge=8, le=MAX_IMAGE_SIZE)
    captions_from: CaptionsFrom = "c"
    entry: Entry = Field("embeddings", exclude_if=lambda it: it == "embeddings")
    family: FamilyName = Field("stable-diffusion", exclude_if=lambda it: it == "stable-diffusion")


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
