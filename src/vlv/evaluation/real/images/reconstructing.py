"""Pictures drawn from the caption embeddings of images, as files: what is missing is drawn.

`FOLDER/MODEL/guidance-2/IMAGE.png` is a picture; of another seed than 0 the folder's name has it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from vlv.checkpoints.hub import snapshot_commit
from vlv.checkpoints.memory import Work
from vlv.checkpoints.parts import DRAWING
from vlv.evaluation.real.images.drawing import (
    Drawing,
    Shard,
    check_drawing,
    draw_pictures,
    missing,
    one_process,
    picture_file,
    seed_of,
)
from vlv.evaluation.real.images.originals import Originals
from vlv.evaluation.results import Progress, opened_hash
from vlv.inference.loading import open_model
from vlv.models.vlv import VLVModel
from vlv.text import plain_name

Cell = tuple[str, float]
"""A model and a guidance scale."""


@dataclass(frozen=True)
class ReconstructionSettings:
    """How pictures are drawn. seeds: one picture of an image from each."""

    guidance: tuple[float, ...] = (2.0,)
    seeds: tuple[int, ...] = (0,)
    num_inference_steps: int = 50
    scheduler: str = "ddim"
    shard: Shard = field(default_factory=Shard)
    batch_size: int = 8
    device: str | None = None
    dtype: str | None = None
    offload: bool = False


def open_models(models: Mapping[str, str], settings: ReconstructionSettings) -> dict[str, VLVModel]:
    """The models by name; weights are loaded when pictures are drawn.

    Raises:
        ConfigError: the device or dtype does not exist.
        CheckpointError: there is no such model.
    """
    work = Work(DRAWING, settings.batch_size, guidance=max(settings.guidance) > 1)
    return {
        name: open_model(
            id_or_path,
            device=settings.device,
            dtype=settings.dtype,
            offload=settings.offload,
            work=work,
        )
        for name, id_or_path in models.items()
    }


@dataclass(frozen=True)
class Reconstructions:
    """Pictures of one model: for each scale a list of files for each seed. side: in pixels."""

    pictures: dict[Cell, list[list[Path]]]
    side: int
    left: int
    about: dict[str, Any]


def reconstruct(
    folder: Path,
    name: str,
    model: VLVModel,
    originals: Originals,
    kept: Sequence[int],
    settings: ReconstructionSettings,
    progress: Progress,
) -> Reconstructions:
    """Draw what is missing of one model, below a folder. kept: the images that decode.

    Raises:
        ConfigError: the pictures were begun otherwise.
        CheckpointError: the model has no encoder or no decoder.
        DatasetError: another process draws.
    """
    # Loaded before images are read.
    _ = model.encoder, model.text_tower, model.decoder
    about = _about(model, settings)
    check_drawing(folder / plain_name(name), about)
    drawings = {
        (name, scale): [
            [
                Drawing(
                    picture_file(folder, name, scale, originals.names[at], seed),
                    at,
                    f"caption embeddings of {originals.hashes[at]}",
                    seed_of(originals.names[at], seed),
                    scale,
                )
                for at in kept
            ]
            for seed in dict.fromkeys(settings.seeds)
        ]
        for scale in dict.fromkeys(settings.guidance)
    }
    every = [one for sets in drawings.values() for some in sets for one in some]

    def draw(batch: Sequence[Drawing]) -> list[Image.Image]:
        z = model.encode([originals.picture(one.at) for one in batch])
        return model.reconstruct(
            z,
            seeds=[one.seed for one in batch],
            guidance_scale=batch[0].guidance,
            num_inference_steps=settings.num_inference_steps,
            scheduler=settings.scheduler,
            batch_size=len(batch),
        ).images

    with one_process(folder / plain_name(name), settings.shard):
        draw_pictures(
            missing(every, settings.shard),
            draw,
            batch_size=settings.batch_size,
            stored_size=None,
            progress=progress,
        )
    return Reconstructions(
        {cell: [[one.file for one in some] for some in sets] for cell, sets in drawings.items()},
        model.decoder.image_size,
        len(missing(every)) if settings.shard.count > 1 else 0,
        about,
    )


def _about(model: VLVModel, settings: ReconstructionSettings) -> dict[str, Any]:
    assert model.opened_from is not None
    return {
        "revision": snapshot_commit(model.opened_from),
        "sha256": opened_hash(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "scheduler": settings.scheduler,
        "num_inference_steps": settings.num_inference_steps,
    }
