"""The published models that VLV is made of, and their boxes at full size without their weights.

Knows ids, licences and sizes (published.yaml); downloads nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field

from vlv.errors import ConfigError
from vlv.models.config import EncoderSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vlv.models.vlv import VLV

Role = Literal["encoder", "decoder", "language_model"]
# The paper's pictures: the decoder's, and what Florence-2 makes of them.
DECODER_IMAGE_SIZE = 384
ENCODER_IMAGE_SIZE = 768
_TABLE = Path(__file__).with_name("published.yaml")


class PublishedPart(BaseModel):
    """One published model: its licence and sizes, and the commit to fetch (None: the newest)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    licence: str
    revision: str | None = Field(pattern=r"^[0-9a-f]{40}$")
    config: dict[str, Any]


class _Choice(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    default: str
    parts: dict[str, PublishedPart]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: _Choice
    decoder: _Choice
    language_model: _Choice


def default_part(role: Role) -> str:
    """The id that is used for a role where none is named: the paper's."""
    return _choice(role).default


def published_parts(role: Role) -> dict[str, PublishedPart]:
    """The known models of a role by id."""
    return dict(_choice(role).parts)


def licence_of(role: Role, name: str) -> str | None:
    """The licence of a known id; None for any other model."""
    part = _choice(role).parts.get(name)
    return None if part is None else part.licence


def revision_of(role: Role, name: str) -> str | None:
    """The commit that is fetched of a known id; None for any other model."""
    part = _choice(role).parts.get(name)
    return None if part is None else part.revision


def skeleton(
    encoder: str | None = None,
    decoder: str | None = None,
    language_model: str | None = None,
    *,
    device: str = "meta",
    dtype: torch.dtype = torch.float32,
) -> "VLV":
    """A VLV of known parts at full size with no weights (device "meta") or with random ones.

    For counting and for timing: its tokenizers are small ones of the right classes, since the
    published ones are downloads; vocabulary sizes are the published ones. None: the default part.

    Raises ConfigError for an id that the table does not hold.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, Florence2Config, Florence2Model

    from vlv.models.caption_decoder import CaptionDecoder
    from vlv.models.diffusion_decoder import DiffusionDecoder
    from vlv.models.encoder import TASK_PROMPTS, VLVEncoder
    from vlv.models.text_tower import TextTower
    from vlv.models.tokenizers import (
        train_clip_tokenizer,
        train_florence_tokenizer,
        train_qwen2_tokenizer,
    )
    from vlv.models.vlv import VLV

    texts = list(TASK_PROMPTS.values())
    diffusion = _known("decoder", decoder).config
    with torch.device(device), _default_dtype(dtype):
        tower = TextTower(
            CLIPTextModel(CLIPTextConfig(**diffusion["text_tower"])), train_clip_tokenizer(texts)
        )
        model = VLV.from_boxes(
            encoder=VLVEncoder(
                Florence2Model(Florence2Config(**_known("encoder", encoder).config)),
                train_florence_tokenizer(texts),
                EncoderSettings(image_size=ENCODER_IMAGE_SIZE),
                tower.width,
            ),
            text_tower=tower,
            decoder=DiffusionDecoder.from_config(
                diffusion["vae"], diffusion["unet"], diffusion["scheduler"], DECODER_IMAGE_SIZE
            ),
            caption_decoder=CaptionDecoder(
                _language_model(_known("language_model", language_model).config),
                train_qwen2_tokenizer(texts),
                tower.width,
            ),
        )
    return model


def _language_model(config: dict[str, Any]) -> "PreTrainedModel":
    from transformers import AutoConfig, AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    return model


def _known(role: Role, name: str | None) -> PublishedPart:
    choice = _choice(role)
    name = name or choice.default
    if name not in choice.parts:
        raise ConfigError(
            f"{name} is none of the published models whose sizes are known as {role}: "
            f"{', '.join(choice.parts)}"
        )
    return choice.parts[name]


def _choice(role: Role) -> _Choice:
    choice: _Choice = getattr(_table(), role)
    return choice


@cache
def _table() -> _Table:
    return _Table.model_validate(yaml.safe_load(_TABLE.read_text(encoding="utf-8")))


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
