"""Checkpoints of the paper's authors opened as they are: converted once, and kept.

The cache is the folder `VLV_CACHE`, or ~/.cache/vlv; it may be deleted at any time.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from vlv.checkpoints.authors.conversion import convert_authors
from vlv.checkpoints.hub import USUAL_DOWNLOAD, DownloadOptions
from vlv.checkpoints.parts import MANIFEST_FILE, BaseModelName
from vlv.checkpoints.weights import TensorFiles
from vlv.errors import ConfigError
from vlv.files import awaited_lock

logger = logging.getLogger(__name__)

ROLES: tuple[BaseModelName, ...] = get_args(BaseModelName)


def converted(
    source: Path,
    base_models: Mapping[str, str | Path],
    download: DownloadOptions = USUAL_DOWNLOAD,
) -> Path:
    """The model folder of a checkpoint in the authors' layout, made if it is not there yet.

    source: a file or folder of weights. base_models: ids or folders of base models by their role.
    """
    unknown = sorted(set(base_models) - set(ROLES))
    if unknown:
        raise ConfigError(f"There is no base model {unknown[0]!r}; they are {', '.join(ROLES)}.")
    folder = _cache() / f"{_readable(source)}-{_identity(source, base_models)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with awaited_lock(folder.with_name(folder.name + ".lock"), folder):
        if not (folder / MANIFEST_FILE).is_file():
            logger.warning("%s is converted once, into %s", source, folder)
            convert_authors(
                source,
                folder,
                encoder=base_models.get("encoder"),
                decoder=base_models.get("decoder"),
                language_model=base_models.get("language_model"),
                download=download,
            )
    return folder


def _cache() -> Path:
    return Path(os.environ.get("VLV_CACHE") or Path.home() / ".cache" / "vlv")


def _readable(source: Path) -> str:
    """A name for people: of a Hub snapshot the repository's, otherwise the path's last part."""
    if source.parent.name == "snapshots":
        return source.parent.parent.name
    return source.stem


def _identity(source: Path, base_models: Mapping[str, str | Path]) -> str:
    """Another file, another size, another time or other base models: another conversion."""
    files = [(str(file.resolve()), os.stat(file)) for file in TensorFiles(source).files]
    identity = [
        [[name, status.st_size, status.st_mtime_ns] for name, status in files],
        {role: str(name) for role, name in base_models.items()},
    ]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
