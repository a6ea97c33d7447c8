"""What the tables measure with: a model of the world, the inspector, held-out scenes.

Everything is opened or computed once, on first use.
"""

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from vlv.data.world_sets import world_samples
from vlv.errors import ConfigError
from vlv.evaluation.metrics.pictures import ImageArray, PictureJudge
from vlv.evaluation.results import Progress, environment, folder_hash, opened_hash, silent
from vlv.evaluation.sampling import ImageSampler, encode, write_captions
from vlv.inference.loading import open_model
from vlv.models.outputs import Caption
from vlv.models.precision import Precision
from vlv.models.vlv import VLVModel
from vlv.world.inspector import DEFAULT_FOLDER, Inspector
from vlv.world.render import IMAGE_SIZE
from vlv.world.scene import Scene


class TableConfig(BaseModel):
    """The fields that every table has; each table adds its own.

    model: id or folder. inspector: its folder; None is the one in the package. count, seed,
    split: the scenes. scheduler, num_inference_steps, mixed_precision: of drawing. num_beams: of
    captioning.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str = "vlv-mini"
    inspector: Path | None = None
    count: int = Field(500, ge=2)
    seed: int = Field(0, ge=0)
    split: Literal["test", "unseen-pairs", "unseen-counts"] = "test"
    scheduler: str = "dpm++"
    num_inference_steps: int = Field(12, ge=1)
    mixed_precision: Precision = "auto"
    num_beams: int = Field(4, ge=1)
    batch_size: int = Field(50, ge=1)
    device: str | None = None
    num_threads: int | None = Field(None, ge=1)


@dataclass(frozen=True)
class HeldOut:
    """Scenes of a split, their true captions and renders (n, 64, 64, 3)."""

    scenes: list[Scene]
    captions: list[str]
    renders: ImageArray

    def __len__(self) -> int:
        return len(self.scenes)


_MADE: dict[tuple[int, int, str], HeldOut] = {}


def held_out_scenes(
    count: int, *, seed: int = 0, split: str = "test", progress: Progress = silent
) -> HeldOut:
    """The set that `vlv world render --count COUNT --seed SEED --split SPLIT` writes.

    Raises:
        WorldError: unknown split, or a count or seed out of range.
    """
    if (count, seed, split) not in _MADE:
        _MADE.clear()  # one set is kept: many models are measured on the same one
        _MADE[count, seed, split] = _held_out(count, seed, split, progress)
    return _MADE[count, seed, split]


def _held_out(count: int, seed: int, split: str, progress: Progress) -> HeldOut:
    samples = list(
        progress(
            world_samples(count, seed=seed, split=split),
            total=count,
            unit="scene",
            description="true renders",
        )
    )
    return HeldOut(
        scenes=[Scene.from_dict(sample.meta["scene"]) for sample in samples],
        captions=[str(sample.caption) for sample in samples],
        renders=np.stack([np.asarray(sample.picture()) for sample in samples]),
    )


class Bench:
    """The scenes of a config, and what its model makes of them."""

    def __init__(self, config: TableConfig, progress: Progress = silent) -> None:
        """Raises:
        CheckpointError, ConfigError: as `open_world_model`.
        """
        self.config = config
        self.progress = progress
        self._start = time.perf_counter()
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
        self.model = open_world_model(config.model, config.device)

    @cached_property
    def data(self) -> HeldOut:
        """The scenes, their true captions and pictures."""
        config = self.config
        return held_out_scenes(
            config.count, seed=config.seed, split=config.split, progress=self.progress
        )

    @cached_property
    def inspector(self) -> Inspector:
        """The network that measures pictures."""
        return Inspector.from_pretrained(self.config.inspector).to(self.model.device)

    @cached_property
    def image_sampler(self) -> ImageSampler:
        """Draws with the model's decoder, from the same noise for the same scene."""
        config = self.config
        return ImageSampler(
            self.model,
            seed=config.seed,
            num_inference_steps=config.num_inference_steps,
            scheduler=config.scheduler,
            mixed_precision=config.mixed_precision,
            batch_size=config.batch_size,
            progress=self.progress,
        )

    @cached_property
    def judge(self) -> PictureJudge:
        """Scores pictures of the scenes."""
        return PictureJudge(self.inspector, self.data.scenes, self.data.renders, self.config.seed)

    @cached_property
    def z(self) -> Tensor:
        """Caption embeddings (n, Q, d) of the scenes' pictures."""
        size = self.config.batch_size
        return encode(self.model, self.data.renders, size, self.progress, "embeddings")

    @cached_property
    def generated(self) -> list[Caption]:
        """The model's captions of the scenes' pictures."""
        config = self.config
        return write_captions(
            self.model, self.z, config.num_beams, config.batch_size, self.progress
        )

    @property
    def captions(self) -> list[str]:
        """The texts of `generated`."""
        return [made.text for made in self.generated]

    @property
    def model_folder(self) -> Path:
        """Where the model was opened from."""
        folder = self.model.folder
        assert folder is not None
        return folder

    def provenance(self, evaluation: str) -> dict[str, Any]:
        """How a result was made."""
        return {
            "evaluation": evaluation,
            "config": self.config.model_dump(mode="json"),
            "environment": environment(),
            "device": str(self.model.device),
            "model_sha256": opened_hash(self.model),
            "inspector_sha256": folder_hash(self.config.inspector or DEFAULT_FOLDER),
            "seconds": round(time.perf_counter() - self._start, 1),
        }


def open_world_model(name: str, device: str | None = None) -> VLVModel:
    """A model that draws pictures of the world's size.

    Raises:
        CheckpointError: the folder is missing or damaged.
        ConfigError: pictures of another size than the world's.
    """
    model = open_model(name, device=device)
    size = model.manifest.config.decoder_image_size
    if size != IMAGE_SIZE:
        raise ConfigError(
            f"{name} draws pictures of {size} px, and the world's have {IMAGE_SIZE} px; "
            "`vlv eval` measures models of the world only"
        )
    return model
