"""Named sets of settings: the defaults of a command, which flags override."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vlv.errors import ConfigError
from vlv.inference.captioning import CaptionSettings
from vlv.inference.postprocess import AUTHORS, Cleaning
from vlv.inference.reconstruction import DrawSettings
from vlv.models.vlv import VLVModel


@dataclass(frozen=True)
class Preset:
    """Settings of captions and pictures, the precision, and the encoder settings to expect.

    `crop_size` and `prompt` are part of how an encoder was trained: they come with the model and
    are never changed. None expects nothing.
    """

    captions: CaptionSettings = field(default_factory=CaptionSettings)
    drawing: DrawSettings = field(default_factory=DrawSettings)
    dtype: str | None = None
    crop_size: int | None = None
    prompt: str | None = None

    def differences(self, model: VLVModel) -> list[str]:
        """The encoder settings in which a model differs from those that the preset expects."""
        settings = model.encoder.settings
        return [
            f"{name} {getattr(settings, name)} instead of {wanted}"
            for name, wanted in (("crop_size", self.crop_size), ("prompt", self.prompt))
            if wanted is not None and getattr(settings, name) != wanted
        ]


PRESETS: dict[str | None, Preset] = {
    None: Preset(),
    # How the paper's authors run their released captioner, and their stage-1 model.
    "authors": Preset(
        captions=CaptionSettings(
            num_beams=4,
            max_new_tokens=300,
            early_stopping=True,
            cleaning=Cleaning(drop_unfinished=True, drop_repeated=True, rules=AUTHORS),
        ),
        drawing=DrawSettings(guidance_scale=2.0, num_inference_steps=50, scheduler="ddpm"),
        dtype="bfloat16",
        crop_size=384,
        prompt="<MORE_DETAILED_CAPTION>",
    ),
}


def preset(name: str | None) -> Preset:
    """The preset of a name; None is the project's own defaults.

    Raises ConfigError if there is no such preset.
    """
    if name not in PRESETS:
        known = ", ".join(known for known in PRESETS if known)
        raise ConfigError(f"there is no preset {name!r}; use one of {known}")
    return PRESETS[name]


def caption_settings(chosen: Preset, given: Mapping[str, Any]) -> CaptionSettings:
    """The preset's caption settings with the given values, under their names in `CaptionSettings`
    and `Cleaning`. A value of None is not given.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    switches = ("drop_unfinished", "drop_repeated")
    cleaning = replace(
        chosen.captions.cleaning, **{name: asked.pop(name) for name in switches if name in asked}
    )
    return replace(chosen.captions, cleaning=cleaning, **asked)


def draw_settings(chosen: Preset, given: Mapping[str, Any]) -> DrawSettings:
    """The preset's drawing with the given values of `DrawSettings`; None is not given."""
    return replace(chosen.drawing, **{k: v for k, v in given.items() if v is not None})
