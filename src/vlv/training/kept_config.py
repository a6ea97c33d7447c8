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
from vlv.training.config import DataConfig, ImageSetConfig, differing_fields
from vlv.training.provenance import START_HASH
from vlv.training.run_folder import writing
from vlv.training.samples.images import set_fingerprint

_CONFIG = "config.json"
# Beside the config there: which images the files of captions number.
_IMAGES = "data_fingerprint"
_HELD_OUT = "validation_count"


class OnImages(Protocol):
    """A config of what is made in a folder of images."""

    output_dir: Path
    data: DataConfig


def keep_config(config: OnImages, start_hash: str | None = None) -> None:
    """Write the config into its folder, with what says which images its `data` names, and the
    `captioner_hash` of the model that writes captions, where that stays one.
    """
    assert isinstance(config, BaseModel)
    saved = config.model_dump(mode="json") | {_IMAGES: set_fingerprint(config.data)}
    if start_hash is not None:
        saved[START_HASH] = start_hash
    write_json(config.output_dir / _CONFIG, saved)


def require_same(
    config: OnImages, changeable: Collection[str], start_hash: str | None = None
) -> None:
    """Raise ConfigError where the folder holds what another config made, or of other images, whose
    numbers its captions name, or by a model of another `start_hash`. Fields in `changeable` may
    differ.
    """
    assert isinstance(config, BaseModel)
    path = config.output_dir / _CONFIG
    if not path.is_file():
        return
    saved = read_object(path, ConfigError)
    images, start = saved.pop(_IMAGES, None), saved.pop(START_HASH, None)
    differing = [name for name in differing_fields(saved, config) if name not in changeable]
    # Another run of training; but here pictures of the set that are not held out are numbered.
    if isinstance(config.data, ImageSetConfig) and config.data.validation_set is None:
        now = config.model_dump(mode="json")
        differing += [one for one in (_HELD_OUT,) if saved.get(one) != now.get(one)]
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
    if None not in (start, start_hash) and start != start_hash:
        raise ConfigError(
            f"{config.output_dir} holds captions of the start as it was before its weights "
            "changed; name another output_dir, or remove it to start again"
        )


def write_json(path: Path, data: Any) -> None:
    """Write JSON as a whole or not at all."""
    with writing(path), atomic_file(path) as unfinished:
        unfinished.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
