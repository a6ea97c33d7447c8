"""The models that a run starts from or reads frozen, and whether they are still what they were.

A checkpoint holds what trains. The rest is read again from the folders that the config names, so a
run that goes on with others would mix two models. Knows folders and no run.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from vlv.checkpoints.content_hash import content_hash
from vlv.checkpoints.manifest import component_folder
from vlv.errors import TrainingError
from vlv.models.config import Component
from vlv.models.vlv import VLVModel

Starts = Mapping[str, Mapping[str, Path]]
"""The folders of components that a stage reads, by the field of its config that names a model and
the name of the component."""

STARTS = "starts"
"""The key of their hashes in the state of a checkpoint, and in the record of a run."""
DRAWING: tuple[Component, ...] = ("text_tower", "vae", "unet", "transformer")
"""The components of a text-to-image model that have weights."""


def components_of(model: VLVModel, components: Iterable[Component]) -> dict[str, Path]:
    """The folders of those of the components that a model has."""
    assert model.folder is not None  # it was opened from one
    held = [name for name in components if name in model.manifest.components]
    return {name: component_folder(name, model.folder) for name in held}


def hashes_of(starts: Starts) -> dict[str, str]:
    """A hash of the weights by field, the same wherever their folders lie.

    Raises:
        TrainingError: a folder cannot be read.
    """
    return {field: _hash_of(field, folders) for field, folders in starts.items()}


def _hash_of(field: str, folders: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, folder in sorted(folders.items()):
        try:
            found = content_hash(folder, folder.rglob("*.safetensors"))
        except OSError as error:
            raise TrainingError(
                f"{field}: {error.filename or folder} cannot be read ({error.strerror})"
            ) from error
        digest.update(f"{name}\0{found}\0".encode())
    return digest.hexdigest()


def require_same_starts(
    checkpoint: Path, saved: Mapping[str, str], now: Mapping[str, str], config: Mapping[str, Any]
) -> None:
    """Raise TrainingError where a model that a run reads has changed since it began; `saved` and
    `now` are hashes, and a checkpoint of an earlier version has none.
    """
    for field in sorted(saved.keys() & now.keys()):
        if saved[field] != now[field]:
            raise TrainingError(
                f"{checkpoint} was made with other weights than {field} names now: those in "
                f"{config[field]} have changed since the run began; put the old ones back, or "
                f"name their folder as {field}, or begin anew in another output_dir or with "
                "resume_from_checkpoint=null"
            )


def only_moved(
    differing: Collection[str], saved: Mapping[str, str], now: Mapping[str, str]
) -> set[str]:
    """Those of the differing fields that name the same weights, in another folder."""
    return {field for field in differing if field in now and saved.get(field) == now[field]}
