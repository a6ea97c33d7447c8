"""Pictures drawn from captions, which `vlv eval coco-fid` and `vlv eval fidelity` have in common.

A folder holds `pictures/`, `features/`, and the results of the commands.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlv.errors import ConfigError
from vlv.evaluation.real.images.drawers import SD35, open_drawer
from vlv.evaluation.real.images.drawing import (
    Drawing,
    Shard,
    begun_by,
    check_begun,
    check_drawing,
    draw_pictures,
    missing,
    one_process,
    picture_file,
    seed_of,
)
from vlv.evaluation.real.images.originals import CaptionedImages, read_originals, with_captions
from vlv.evaluation.results import PART, Label, Progress, environment
from vlv.files import sha256_of

PICTURES, INDEX = "pictures", "index"
Cell = tuple[str, float]
"""A captioner and a guidance scale."""


def cell_labels(part: str, cell: Cell) -> dict[str, Label]:
    """The labels of a row."""
    return {PART: part, "captions": cell[0], "guidance": cell[1]}


@dataclass(frozen=True)
class DrawingSettings:
    """How captions become pictures; the defaults are the paper's. size: side of a picture in
    pixels; None is the pipeline's own. stored_size: larger pictures are stored so large.
    """

    pipeline: str = SD35
    guidance: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0)
    num_inference_steps: int = 40
    size: int | None = None
    stored_size: int | None = None
    seed: int = 0
    batch_size: int = 4
    device: str | None = None
    dtype: str | None = None
    offload: bool = False

    def __post_init__(self) -> None:
        if not all(math.isfinite(scale) and scale >= 1 for scale in self.guidance):
            given = ", ".join(map(str, self.guidance))
            raise ConfigError(f"guidance scales are 1 or more and finite, not {given}")


@dataclass(frozen=True)
class CaptionSource:
    """What is drawn: the set, the captions files by name, and whether its own captions are too."""

    source: Path
    out: Path
    captions: Mapping[str, Path]
    human: bool = True
    limit: int | None = None
    shard: Shard = field(default_factory=Shard)


@dataclass(frozen=True)
class CaptionPictures:
    """Pictures of every captioner at every scale. left: those that other shards have not drawn yet,
    which are among `files` all the same.
    """

    captioned: CaptionedImages
    files: dict[Cell, list[Path]]
    left: int
    provenance: dict[str, Any]


def caption_pictures(
    given: CaptionSource, settings: DrawingSettings, progress: Progress
) -> CaptionPictures:
    """Read the captions and draw what is missing.

    Raises:
        ConfigError: nothing is to be drawn; the folder was begun otherwise.
        DatasetError: the set or a captions file cannot be read; another process draws.
        CheckpointError: the pipeline cannot be opened.
    """
    originals = read_originals(given.source, given.out / INDEX, given.limit, progress)
    captioned = with_captions(originals, given.captions, human=given.human)
    folder = given.out / PICTURES
    drawings = _drawings(folder, captioned, settings)
    every = [one for some in drawings.values() for one in some]
    with one_process(folder, given.shard):
        mine = missing(every, given.shard)
        if mine:
            _draw(folder, mine, settings, progress)
        else:
            check_begun(folder, _asked(settings))
    left = len(missing(every)) if given.shard.count > 1 else 0
    return CaptionPictures(
        captioned,
        {row: [one.file for one in some] for row, some in drawings.items()},
        left,
        {
            "environment": environment(),
            "source": str(given.source),
            "set": originals.images.fingerprint,
            "limit": given.limit,
            "captions": {
                name: {"file": str(path), "sha256": sha256_of(path)}
                for name, path in given.captions.items()
            },
            "drawing": begun_by(folder),
        },
    )


def _drawings(
    folder: Path, captioned: CaptionedImages, settings: DrawingSettings
) -> dict[Cell, list[Drawing]]:
    names = captioned.originals.names
    return {
        (captioner, scale): [
            Drawing(
                picture_file(folder, captioner, scale, name),
                at,
                text,
                seed_of(name, settings.seed),
                scale,
            )
            for at, (name, text) in enumerate(zip(names, texts, strict=True))
        ]
        for captioner, texts in captioned.texts.items()
        for scale in dict.fromkeys(settings.guidance)
    }


def _draw(
    folder: Path, drawings: list[Drawing], settings: DrawingSettings, progress: Progress
) -> None:
    drawer = open_drawer(
        settings.pipeline,
        steps=settings.num_inference_steps,
        size=settings.size,
        device=settings.device,
        dtype=settings.dtype,
        offload=settings.offload,
    )
    check_drawing(folder, _asked(settings) | drawer.about)
    draw_pictures(
        drawings,
        lambda batch: drawer.draw(
            [one.source for one in batch], [one.seed for one in batch], batch[0].guidance
        ),
        batch_size=settings.batch_size,
        stored_size=settings.stored_size,
        progress=progress,
        reads_whole=drawer.reads_whole,
    )


def _asked(settings: DrawingSettings) -> dict[str, Any]:
    """What pictures of one folder have in common and a model need not be opened for."""
    return {
        "pipeline": settings.pipeline,
        "num_inference_steps": settings.num_inference_steps,
        "size": settings.size,
        "stored_size": settings.stored_size,
        "seed": settings.seed,
    }
