"""What a measurement was made with: weights by hash, versions, machine."""

import hashlib
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from vlv import __version__

# Parts of a model folder that change no caption and no picture: what is known of images and marks.
CHECKS = ("ood_detector", "verifier")
_MODEL_CARD = "README.md"
_LIBRARIES = ("torch", "transformers", "diffusers", "numpy", "scipy")


def folder_hash(folder: Path, components: Iterable[str] = (".",)) -> str:
    """SHA-256 over the names and bytes of all files of a model folder, or of those components."""
    digest = hashlib.sha256()
    places = [folder / name for name in components]
    files = {file for place in places for file in (place, *place.rglob("*")) if file.is_file()}
    for path in sorted(files):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def model_hash(folder: Path) -> str:
    """`folder_hash` of what captions and pictures depend on: no `CHECKS`, no model card."""
    left_out = {*CHECKS, _MODEL_CARD}
    rest = sorted(path.name for path in folder.iterdir() if path.name not in left_out)
    return folder_hash(folder, rest)


def environment() -> dict[str, Any]:
    """Versions, machine and threads, as JSON values."""
    return {
        "vlv": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _LIBRARIES},
        "platform": platform.platform(),
        "num_threads": torch.get_num_threads(),
    }
