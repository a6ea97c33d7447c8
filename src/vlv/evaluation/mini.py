"""`vlv eval mini`: everything that a model of the embedded world can be asked, with exact truth.

Pictures are drawn from every condition with the same noise for the same scene, so that rows
differ by their condition alone. The first guidance scale is measured on all scenes, with the
controls; all scales are compared on the first `SWEEP_COUNT`, since drawing is what costs.

Shapes: n scenes, Q embeddings, d width of z and c.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlv.errors import ConfigError
from vlv.evaluation.captions import caption_figures
from vlv.evaluation.floors import floors
from vlv.evaluation.held_out import HeldOut, held_out_scenes
from vlv.evaluation.metrics import Figure
from vlv.evaluation.pictures import PictureJudge, Pictures, PictureScores
from vlv.evaluation.progress import Progress, silent
from vlv.evaluation.provenance import environment, folder_hash
from vlv.inference.loading import open_model
from vlv.models.caption_decoder import Generated
from vlv.models.vlv import VLV
from vlv.world.inspector import DEFAULT_FOLDER, Inspector, to_pixels
from vlv.world.render import IMAGE_SIZE

SWEEP_COUNT = 250
# Conditions whose pictures are drawn at every guidance scale, in the order of the table.
SWEPT = ("true-captions", "embeddings-before-stage2", "embeddings", "generated-captions")
CONTROLS = ("shuffled-z", "mean-z", "unconditional", "random-captions")
# Where the weights' own provenance keeps the row of `embeddings-before-stage2`.
BEFORE_STAGE2 = "before_stage2"


@dataclass(frozen=True)
class MiniOptions:
    """What is measured: `count` scenes of the set with this seed and split.

    model: id or folder. stage1: folder whose encoder is measured as the one before stage 2.
    inspector: its folder; None is the one in the package. guidance_scales: the first is the main
    one. num_inference_steps, num_beams: of drawing and captioning.
    """

    model: str = "vlv-mini"
    stage1: str | None = None
    inspector: str | None = None
    count: int = 1000
    seed: int = 0
    split: str = "test"
    guidance_scales: tuple[float, ...] = (2.0, 1.0, 3.0, 4.0)
    num_inference_steps: int = 20
    num_beams: int = 4
    batch_size: int = 50
    device: str | None = None
    num_threads: int | None = None

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ConfigError(f"count must be at least 2, not {self.count}: scenes are exchanged")
        if not self.guidance_scales:
            raise ConfigError("give at least one guidance scale")


def evaluate_mini(options: MiniOptions, progress: Progress = silent) -> dict[str, Any]:
    """Measure a model; returns JSON values (NaN where there was nothing to measure).

    `pictures` and `captions` are rows over all scenes, `guidance` rows over the first
    `SWEEP_COUNT`. What a model folder does not hold is not measured: one without an encoder has
    no rows of embeddings, one without a captioner none of generated captions.

    Raises:
        CheckpointError: a model folder is missing, damaged, or cannot draw.
        ConfigError: impossible options, or pictures of another size than the world's.
        WorldError: unknown split.
    """
    start = time.perf_counter()
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)
    model = open_model(options.model, device=options.device)
    size = model.manifest.config.decoder_image_size
    if size != IMAGE_SIZE:
        raise ConfigError(
            f"the model {options.model} draws pictures of {size} px and the world's have "
            f"{IMAGE_SIZE} px; `vlv eval mini` measures models of the world"
        )
    inspector = Inspector.from_pretrained(options.inspector).to(model.device)
    data = held_out_scenes(
        options.count, seed=options.seed, split=options.split, progress=progress
    )
    run = _Run(options, model, inspector, data, progress)
    result = run.measure()
    result["provenance"] = {
        "options": asdict(options),
        "environment": environment(),
        "device": str(model.device),
        "model_sha256": _hash(model),
        "model": model.provenance,
        "inspector_sha256": folder_hash(Path(options.inspector or DEFAULT_FOLDER)),
        "stage1_sha256": folder_hash(Path(options.stage1)) if options.stage1 else None,
        "pictures_drawn": run.drawn,
        "seconds": round(time.perf_counter() - start, 1),
    }
    return result


class _Run:
    """One evaluation: conditions first, then pictures of each, then figures."""

    def __init__(
        self,
        options: MiniOptions,
        model: VLV,
        inspector: Inspector,
        data: HeldOut,
        progress: Progress,
    ) -> None:
        self.options = options
        self.model = model
        self.data = data
        self.progress = progress
        self.drawn = 0
        self.judge = PictureJudge(inspector, data.scenes, data.renders, options.seed)
        self.main = options.guidance_scales[0]

    @torch.no_grad()
    def measure(self) -> dict[str, Any]:
        z = self._embeddings(self.model, "embeddings") if self._holds("encoder") else None
        generated = self._captions(z, "captions") if z is not None and self._captions_held else None
        conditions = self._conditions(z, generated)
        scores = {"renders": self.judge.score(self.data.renders), "vae": self._round_trip()}
        sweep: list[dict[str, Any]] = []
        count = min(SWEEP_COUNT, len(self.data))
        for name, c in conditions.items():
            # No guidance leads anywhere from the unconditional context.
            scale = 1.0 if name == "unconditional" else self.main
            scores[name] = self.judge.score(self._draw(c, scale, name))
            if name not in SWEPT:
                continue
            for other in sorted(self.options.guidance_scales):
                if other == self.main:
                    some = scores[name].first(count)
                else:
                    some = self.judge.score(self._draw(c[:count], other, name))
                sweep.append(self._picture_row(name, other, some))
        pictures = [self._picture_row(name, self._scale(name), s) for name, s in scores.items()]
        captions = self._caption_rows(z, generated)
        return {
            "pictures": pictures + self._recorded(scores),
            "guidance": sweep,
            "captions": captions,
            "floors": floors(self.judge, scores, captions),
        }
