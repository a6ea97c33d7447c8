"""`vlv models`: which models there are, what they weigh, and under which terms."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from vlv.cli.options import JsonOption

# What is loaded for captions, and for pictures.
_CAPTION_PARTS = ("encoder", "text_tower", "caption_decoder")
_PICTURE_PARTS = ("encoder", "text_tower", "vae", "unet")


@dataclass(frozen=True)
class ModelEntry:
    """One line of the table; sizes in bytes, None where unknown."""

    id: str
    description: str
    licence: str
    available: bool
    note: str
    parameters: int | None = None
    disk_bytes: int | None = None
    caption_bytes: int | None = None
    picture_bytes: int | None = None


def models(as_json: JsonOption = False) -> None:
    """List the known models: ids, sizes, licences, and the memory that their weights take."""
    entries = known_models()
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in entries], indent=2))
        return
    typer.echo("\n\n".join(_block(entry) for entry in entries))


def known_models() -> list[ModelEntry]:
    """The models of the package, measured where they lie, and the authors' released captioner."""
    return [_embedded("vlv-mini", "A complete VLV of the embedded world, 64 px."), _authors()]


def _embedded(id: str, description: str) -> ModelEntry:
    from vlv.errors import CheckpointError
    from vlv.models.hub import resolve

    licence = "Apache-2.0"
    try:
        folder = resolve(id)
    except CheckpointError as error:
        return ModelEntry(id, description, licence, available=False, note=str(error))
    parts = {part.name: _parameters(part) for part in folder.iterdir() if part.is_dir()}

    def float32_bytes(names: tuple[str, ...]) -> int:
        return 4 * sum(parts.get(name, 0) for name in names)

    return ModelEntry(
        id,
        description,
        licence,
        available=True,
        note="in the package",
        parameters=sum(parts.values()),
        disk_bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        caption_bytes=float32_bytes(_CAPTION_PARTS),
        picture_bytes=float32_bytes(_PICTURE_PARTS),
    )


def _parameters(folder: Path) -> int:
    """Number of values in the safetensors files of a folder, by their headers."""
    from math import prod

    from safetensors import safe_open

    total = 0
    for file in folder.rglob("*.safetensors"):
        with safe_open(file, framework="np") as tensors:
            names = tensors.keys()
            total += sum(prod(tensors.get_slice(name).get_shape()) for name in names)
    return total


def _authors() -> ModelEntry:
    # Published parameter counts of Florence-2-large, the text encoder of Stable Diffusion 2.1
    # and Qwen2.5-3B. The authors run it in bfloat16, and it holds no U-Net or VAE to draw with.
    parameters = 770_000_000 + 340_000_000 + 3_090_000_000
    return ModelEntry(
        "lambertxiao/Vision-Language-Vision-Captioner-Qwen2.5-3B",
        "The captioner that the paper's authors released.",
        "of its parts: MIT, CreativeML Open RAIL++-M, Qwen Research",
        available=False,
        note="known; its layout cannot be read yet",
        parameters=parameters,
        caption_bytes=2 * parameters,
    )


def _block(entry: ModelEntry) -> str:
    """A few lines for people; ids are too long for a table's column."""
    sizes = {
        "on disk": entry.disk_bytes,
        "in memory to caption": entry.caption_bytes,
        "in memory to draw": entry.picture_bytes,
    }
    weights = [f"{entry.parameters / 1e6:,.1f}M parameters"] if entry.parameters else []
    weights += [f"{size / 1e6:,.0f} MB {what}" for what, size in sizes.items() if size]
    lines = [entry.description, ", ".join(weights), f"licence: {entry.licence}", entry.note]
    return "\n".join([entry.id, *(f"  {line}" for line in lines if line)])
