"""The published models that VLV is made of.

Knows ids, licences and sizes (published.yaml); downloads nothing.
"""

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from vlv.checkpoints.parts import BaseModelName
from vlv.errors import ConfigError
from vlv.models.config import FamilyName

# The paper's pictures: the decoder's, and what Florence-2 makes of them.
DECODER_IMAGE_SIZE = 384
ENCODER_IMAGE_SIZE = 768
_TABLE = Path(__file__).with_name("published.yaml")


class BaseModelRecord(BaseModel):
    """One published model: its licence and sizes, and the commit to fetch (None: the newest).

    family: of a text-to-image model. gate: what has to be done on the Hub before it can be fetched.
    instruction_tokens: of what its pipeline puts before every text, the first token included.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    licence: str
    revision: str | None = Field(pattern=r"^[0-9a-f]{40}$")
    family: FamilyName = "stable-diffusion"
    gate: str | None = None
    instruction_tokens: int | None = Field(None, ge=2)
    config: dict[str, Any]


class _Choice(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    default: str
    parts: dict[str, BaseModelRecord]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: _Choice
    decoder: _Choice
    language_model: _Choice


def default_base_model(role: BaseModelName) -> str:
    """The id that is used for a role where none is named: the paper's."""
    return _choice(role).default


def known_base_models(role: BaseModelName) -> dict[str, BaseModelRecord]:
    """The known models of a role by id."""
    return dict(_choice(role).parts)


def licence_of(role: BaseModelName, name: str) -> str | None:
    """The licence of a known id; None for any other model."""
    part = _choice(role).parts.get(name)
    return None if part is None else part.licence


def gate_of(role: BaseModelName, name: str) -> str | None:
    """What has to be done on the Hub before a known id can be fetched; None where nothing has."""
    part = _choice(role).parts.get(name)
    return None if part is None else part.gate


def revision_of(role: BaseModelName, name: str) -> str | None:
    """The commit that is fetched of a known id; None for any other model."""
    part = _choice(role).parts.get(name)
    return None if part is None else part.revision


def known_base_model(role: BaseModelName, name: str | None) -> BaseModelRecord:
    """The record of an id (None: the default).

    Raises ConfigError for an id that the table does not hold.
    """
    choice = _choice(role)
    name = name or choice.default
    if name not in choice.parts:
        raise ConfigError(
            f"{name} is none of the published models whose sizes are known as {role}: "
            f"{', '.join(choice.parts)}"
        )
    return choice.parts[name]


def _choice(role: BaseModelName) -> _Choice:
    choice: _Choice = getattr(_table(), role)
    return choice


@cache
def _table() -> _Table:
    return _Table.model_validate(yaml.safe_load(_TABLE.read_text(encoding="utf-8")))
