"""The config that a folder of judged or selected captions was made with: its files number images,
and go on only with the same.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from vlv.errors import ConfigError
from vlv.files import atomic_file
from vlv.text import read_object
from vlv.training.config import DataConfig, differing_fields
from vlv.training.run_folder import writing
from vlv.training.samples.images import set_fingerprint

_CONFIG = "config.json"
# Beside the config there: which images the files of captions number.
_IMAGES = "data_fingerprint"


class OnImages(Protocol):
    """A config of what is made in a folder of images."""

    output_dir: Path
    data: DataConfig


def keep_config(config: OnImages) -> None:
    """Write the config into its folder, with what says which images its `data` names."""
    assert isinstance(config, BaseModel)
    saved = config.model_dump(mode="json") | {_IMAGES: set_fingerprint(config.data)}
    write_json(config.output_dir / _CONFIG, saved)


def require_same(config: OnImages, changeable: Collection[str]) -> None:
    """Raise ConfigError where the folder holds what another config made, or of other images, whose
    numbers its captions name. Fields in `changeable` may differ.
    """
    assert isinstance(config, BaseModel)
    path = config.output_dir / _CONFIG
    if not path.is_file():
        return
    saved = read_object(path, ConfigError)
    images = saved.pop(_IMAGES, None)
    differing = [name for name in differing_fields(saved, config) if name not in changeable]
    if differing:
        raise ConfigError(
            f"{config.output_dir} holds a run with other values of {', '.join(differing)}; "
            "name another output_dir, or remove it to start again"
        )
    if images is not None and images != set_fingerprint(config.data):
        raise ConfigError(
            f"{config.output_dir} holds captions of other images than data names now: some "
            "were added, removed or changed; give the old ones, or another output_dir"
        )


def write_json(path: Path, data: Any) -> None:
    """Write JSON as a whole or not at all."""
    with writing(path), atomic_file(path) as unfinished:
        unfinished.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
