"""Caption embeddings on disk: one safetensors file with the images' names in its metadata.

Tensor `z` (N,Q,d) float32; metadata `file_names` (JSON list of N names) and `model`. Where z has
several slots, there is a tensor `z.NAME` for each, and `slots` is the JSON list of their names.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vlv.errors import ConfigError, DatasetError
from vlv.files import atomic_large_file
from vlv.inference.records import Encoded, ImageInput
from vlv.models.vlv import VLVModel, first_queries

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class SavedEmbeddings:
    """Caption embeddings z (N,Q,d), the names of their N images, and the model that made them."""

    z: Tensor
    file_names: list[str]
    model: str


def save_embeddings(
    path: Path,
    z: Tensor,
    file_names: Sequence[str],
    model: str,
    slots: Mapping[str, int] | None = None,
) -> None:
    """Write z (N,Q,d) as float32 with the names of its N images; the file is complete or absent.

    slots: widths of what z consists of, by name (`VLVEncoder.slots`); None is a single one.

    Raises:
        DatasetError: the file cannot be written, as on a full disk.
    """
    if len(file_names) != len(z):
        raise ValueError(f"{len(file_names)} names for {len(z)} embeddings")
    metadata = {"format": "pt", "file_names": json.dumps(list(file_names)), "model": model}
    with atomic_large_file(path) as unfinished:
        tensors = {"z": z}
        if slots is not None and len(slots) > 1:
            parts = z.split(list(slots.values()), dim=-1)
            tensors = {f"z.{name}": part for name, part in zip(slots, parts, strict=True)}
            metadata["slots"] = json.dumps(list(slots))
        stored = {
            name: one.detach().to("cpu", torch.float32).contiguous()
            for name, one in tensors.items()
        }
        try:
            save_file(stored, unfinished, metadata=metadata)
        except SafetensorError as error:  # the library's own name for what the system refuses
            raise DatasetError(f"{path} cannot be written ({error})") from error


def load_embeddings(path: Path) -> SavedEmbeddings:
    """Read what `save_embeddings` wrote.

    Raises:
        DatasetError: the file is missing or damaged, or holds something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            slots = _names(metadata.get("slots", "[]"))
            tensors = [f"z.{slot}" for slot in slots or []] or ["z"]
            if sorted(file.keys()) != sorted(tensors) or "file_names" not in metadata:
                raise DatasetError(f"{path} holds no caption embeddings; make it with `vlv encode`")
            parts = [file.get_tensor(name) for name in tensors]
    except (SafetensorError, OSError) as error:
        raise DatasetError(f"{path} cannot be read as saved embeddings ({error})") from error
    names = _names(metadata["file_names"])
    fault = _fault(parts, names)
    if names is None or fault is not None:
        raise DatasetError(f"{path} is damaged: {fault}; make it anew with `vlv encode`")
    return SavedEmbeddings(torch.cat(parts, dim=-1), names, metadata.get("model", ""))


def _fault(parts: list[Tensor], names: list[str] | None) -> str | None:
    first = parts[0]
    if len(parts) > 1 and any(one.dim() != 3 or one.shape[:2] != first.shape[:2] for one in parts):
        return "its slots are not of the same images and positions"
    if not all(one.is_floating_point() and one.isfinite().all() for one in parts):
        return "its embeddings are no finite numbers"
    if first.dim() != 3 or names is None or len(names) != len(first):
        shape = tuple(torch.cat(parts, dim=-1).shape)
        return f"its file names do not fit embeddings of shape {shape}"
    return None


def saved_as_encoded(
    model: VLVModel, saved: SavedEmbeddings, num_queries: int | None = None
) -> list[Encoded]:
    """Saved embeddings on the model's device, in the form that `encode_images` gives; the first
    num_queries of each image.

    Raises:
        ConfigError: they do not fit the model's text tower, or are fewer.
    """
    tower = model.text_tower
    if saved.z.shape[1] > tower.positions or saved.z.shape[2] != tower.width:
        raise ConfigError(
            f"these embeddings are {saved.z.shape[1]} of width {saved.z.shape[2]} an image and "
            f"the model takes up to {tower.positions} of width {tower.width}; use the model that "
            f"made them ({saved.model})"
        )
    z = first_queries(saved.z, num_queries).to(model.device, model.dtype)
    return [
        Encoded(ImageInput(name, Path(name)), one)
        for name, one in zip(saved.file_names, z, strict=True)
    ]


def _names(text: str) -> list[str] | None:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(names, list):
        return None
    # No file's name has a NUL.
    return names if all(isinstance(name, str) and "\0" not in name for name in names) else None
