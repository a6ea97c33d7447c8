"""What the tables measure with: a model of the world, the inspector, held-out scenes.

Everything is opened or computed when it is first asked for, and once.
"""

import time
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from vlv.errors import ConfigError
from vlv.evaluation.conditions import encode, write_captions
from vlv.evaluation.held_out import HeldOut, held_out_scenes
from vlv.evaluation.metrics.pictures import PictureJudge
from vlv.evaluation.progress import Progress, silent
from vlv.evaluation.provenance import environment, folder_hash, model_hash
from vlv.evaluation.sampling import Painter
from vlv.inference.loading import open_model
from vlv.models.caption_decoder import Generated
from vlv.models.precision import Precision
from vlv.models.vlv import VLV
from vlv.world.inspector import DEFAULT_FOLDER, Inspector
from vlv.world.render import IMAGE_SIZE


class TableConfig(BaseModel):
    """What every table is told; each adds its own fields.

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


class Bench:
    """The scenes of a config and what its model makes of them."""

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
        """The measuring instrument."""
        return Inspector.from_pretrained(self.config.inspector).to(self.model.device)

    @cached_property
    def painter(self) -> Painter:
        """Draws with the model's decoder, from the same noise for the same scene."""
        config = self.config
        return Painter(
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
        return encode(self.model, self.data, size, self.progress, "embeddings")

    @cached_property
    def generated(self) -> list[Generated]:
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
        """What a result says of how it was made."""
        return {
            "evaluation": evaluation,
            "config": self.config.model_dump(mode="json"),
            "environment": environment(),
            "device": str(self.model.device),
            "model_sha256": model_hash(self.model_folder),
            "inspector_sha256": folder_hash(self.config.inspector or DEFAULT_FOLDER),
            "seconds": round(time.perf_counter() - self._start, 1),
        }


def open_world_model(name: str, device: str | None = None) -> VLV:
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
