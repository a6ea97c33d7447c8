"""The model folder: what it holds, where it came from, and how it is put in place at once.

Knows no network; the boxes write themselves into the folder.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from vlv.checkpoints.components import read_settings
from vlv.checkpoints.hub import MANIFEST_FILE
from vlv.errors import ConfigError
from vlv.files import atomic_file, atomic_folder, sync
from vlv.models.config import MAX_IMAGE_SIZE

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
CaptionsFrom = Literal["c", "z"]
COMPONENTS: tuple[Component, ...] = get_args(Component)
DECODER_COMPONENTS: tuple[Component, ...] = ("vae", "unet", "scheduler")


class FolderConfig(BaseModel):
    """What no component's own config says.

    captions_from: what the captioner reads; z in a model that was trained to caption past the text
    tower, to be compared with.
    """

    model_config = ConfigDict(extra="forbid")

    decoder_image_size: int = Field(default=64, ge=8, le=MAX_IMAGE_SIZE)
    captions_from: CaptionsFrom = "c"


class Manifest(BaseModel):
    """vlv.json: what the folder holds and where it came from."""

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1] = 1
    config: FolderConfig = Field(default_factory=FolderConfig)
    components: list[Component]
    provenance: dict[str, Any] = Field(default_factory=dict)

    @field_validator("provenance")
    @classmethod
    def _records_by_name(cls, provenance: dict[str, Any]) -> dict[str, Any]:
        for name in ("stages", "parts"):
            if not isinstance(provenance.get(name, {}), dict):
                raise ValueError(f"{name} is no object")
        return provenance


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write vlv.json."""
    text = json.dumps(manifest.model_dump(), indent=2, ensure_ascii=False)
    with atomic_file(folder / MANIFEST_FILE) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8")


def note_component(name: Component, folder: Path) -> None:
    """Say in vlv.json that the folder holds a component; nothing else there is written."""
    manifest = read_settings(Manifest, folder / MANIFEST_FILE)
    if name not in manifest.components:
        manifest.components.append(name)
        write_manifest(manifest, folder)


@contextmanager
def new_model_folder(target: Path) -> Iterator[Path]:
    """A folder to write a model into; it takes the place of `target` when all went well.

    Raises:
        ConfigError: `target` holds something that is no model.
    """
    if target.exists() and not _replaceable(target):
        raise ConfigError(
            f"{target} exists and is no model folder; remove it or name another place."
        )
    with atomic_folder(target, overwrite=True) as building:
        yield building
        # As of `atomic_file`: the weights reach the disk before the folder has its name.
        for path in building.rglob("*"):
            sync(path)


def _replaceable(target: Path) -> bool:
    """An empty folder or an older model may be replaced; anything else is somebody's work."""
    return target.is_dir() and ((target / MANIFEST_FILE).is_file() or not any(target.iterdir()))
