"""`vlv models`: the known models, their sizes and licences."""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from vlv.cli.options.files import JsonOption

if TYPE_CHECKING:
    from vlv.checkpoints.parts import BaseModelName, PartName
    from vlv.checkpoints.sizes import Sizes
    from vlv.models.config import BoxName


@dataclass(frozen=True)
class ModelEntry:
    """One block of the list; sizes in bytes, None where unknown, memory that of the weights."""

    id: str
    description: str
    licence: str
    available: bool
    note: str
    parameters: int | None = None
    disk_bytes: int | None = None
    caption_bytes: int | None = None
    picture_bytes: int | None = None


@dataclass(frozen=True)
class Combination:
    """A VLV of published parts: parameters, and bytes of its weights by dtype and use."""

    encoder: str
    decoder: str
    language_model: str
    parameters: int
    caption_bytes: dict[str, int]
    picture_bytes: dict[str, int]


def models(
    sizes: Annotated[
        bool,
        typer.Option(
            "--sizes",
            help="Also count the published components at full size (takes half a minute).",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the known models with sizes, licences, and the memory of their weights."""
    entries = known_models()
    counted = combinations() if sizes else []
    if as_json:
        known = [asdict(entry) for entry in entries]
        typer.echo(
            json.dumps(
                {"models": known, "combinations": [asdict(one) for one in counted]}
                if sizes
                else known,
                indent=2,
            )
        )
        return
    typer.echo("\n\n".join(_block(entry) for entry in entries))
    if counted:
        typer.echo("\n" + _table(counted))


def known_models() -> list[ModelEntry]:
    """The models of the package, measured where they lie, and the authors' released captioner."""
    return [_embedded("vlv-mini", "A complete VLV of the embedded world, 64 px."), _authors()]


def combinations() -> list[Combination]:
    """The paper's encoder and decoder with each of the published language models, and the other
    encoders and decoders with the paper's rest; counted on networks without weights.
    """
    from vlv.checkpoints.parts import CAPTIONING, DRAWING
    from vlv.checkpoints.published import default_base_model, known_base_models
    from vlv.checkpoints.sizes import model_sizes
    from vlv.checkpoints.skeleton import skeleton

    roles: tuple[BaseModelName, ...] = ("encoder", "decoder", "language_model")
    paper = {role: default_base_model(role) for role in roles}
    chosen = [
        {**paper, role: name}
        for role in roles
        for name in known_base_models(role)
        if name != paper[role] or role == "language_model"
    ]
    found = []
    for names in chosen:
        sizes = model_sizes(skeleton(names["encoder"], names["decoder"], names["language_model"]))

        found.append(
            Combination(
                **names,
                parameters=sum(one.values for one in sizes.values()),
                caption_bytes=_by_dtype(sizes, CAPTIONING, quantized=True),
                picture_bytes=_by_dtype(sizes, DRAWING),
            )
        )
    return found


def _by_dtype(
    sizes: "dict[PartName, Sizes]", boxes: "tuple[BoxName, ...]", quantized: bool = False
) -> dict[str, int]:
    """Bytes of the boxes' weights; `quantized` adds the language model in fewer bits."""
    from vlv.checkpoints.parts import Quantization
    from vlv.checkpoints.sizes import weight_bytes

    ways: dict[str, tuple[int, Quantization | None]] = {
        "float32": (4, None),
        "bfloat16": (2, None),
    }
    if quantized:
        ways |= {"bfloat16, 8bit": (2, "8bit"), "bfloat16, 4bit": (2, "4bit")}
    return {name: sum(weight_bytes(sizes, boxes, *way).values()) for name, way in ways.items()}


def _embedded(id: str, description: str) -> ModelEntry:
    from vlv.checkpoints.hub import resolve
    from vlv.checkpoints.parts import CAPTIONING, DRAWING
    from vlv.checkpoints.sizes import folder_sizes
    from vlv.errors import CheckpointError

    licence = "Apache-2.0"
    try:
        folder = resolve(id)
        sizes = folder_sizes(folder)
    except CheckpointError as error:
        return ModelEntry(id, description, licence, available=False, note=str(error))
    return ModelEntry(
        id,
        description,
        licence,
        available=True,
        note="in the package",
        parameters=sum(one.values for one in sizes.values()),
        disk_bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        caption_bytes=_by_dtype(sizes, CAPTIONING)["float32"],
        picture_bytes=_by_dtype(sizes, DRAWING)["float32"],
    )


def _authors() -> ModelEntry:
    return ModelEntry(
        "lambertxiao/Vision-Language-Vision-Captioner-Qwen2.5-3B",
        "The captioner that the paper's authors released; it holds nothing to draw with.",
        "of its parts: MIT, CreativeML Open RAIL++-M, Qwen Research",
        available=False,
        note="on the Hugging Face Hub, in the authors' layout; `vlv models --sizes` counts its "
        "parts",
    )


def _table(counted: list[Combination]) -> str:
    """A line for each combination: its parts without their owners, and gigabytes."""
    rows = [("of published parts, GB of weights", "parameters", "to caption", "to draw")]
    for one in counted:
        names = (one.encoder, one.decoder, one.language_model)
        uses = [
            " / ".join(f"{size / 1e9:.1f}" for size in use.values())
            for use in (one.caption_bytes, one.picture_bytes)
        ]
        parts = " + ".join(name.split("/")[-1] for name in names)
        rows.append((parts, f"{one.parameters / 1e9:.2f}B", uses[0], uses[1]))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(
        [
            *lines,
            "float32 / bfloat16, and to caption / with the language model in 8 bits / in 4 bits",
        ]
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
