"""`vlv eval mini`: everything that a model of the embedded world can be asked, with exact truth.

Pictures are drawn from every condition with the same noise for the same scene, so that rows
differ by their condition alone. The first guidance scale is measured on all scenes, with the
controls; all scales are compared on the first `SWEEP_COUNT`, since drawing is what costs.
"""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlv.errors import ConfigError
from vlv.evaluation.bench import open_world_model
from vlv.evaluation.conditions import SOURCES, Embeddings, conditions, encode, write_captions
from vlv.evaluation.floors import Floor, mini_floors
from vlv.evaluation.held_out import HeldOut, held_out_scenes
from vlv.evaluation.metrics.captions import caption_figures
from vlv.evaluation.metrics.pictures import PictureJudge, PictureScores
from vlv.evaluation.metrics.statistics import Figure
from vlv.evaluation.progress import Progress, silent
from vlv.evaluation.provenance import environment, folder_hash, model_hash
from vlv.evaluation.sampling import Painter
from vlv.inference.loading import open_model
from vlv.models.caption_decoder import Generated
from vlv.models.precision import Precision
from vlv.models.vlv import VLV
from vlv.world.inspector import DEFAULT_FOLDER, Inspector

SWEEP_COUNT = 250
# The encoder before stage 2 of a model in the package.
_STAGE1 = {"vlv-mini": "vlv-mini-stage1"}


@dataclass(frozen=True)
class MiniOptions:
    """What is measured: `count` scenes of the set with this seed and split.

    model: id or folder. stage1: id or folder whose encoder is measured as the one before stage 2;
    None is the package's for the package's model, and otherwise none.
    inspector: its folder; None is the one in the package. guidance_scales: the first is the main
    one. scheduler, num_inference_steps, mixed_precision: of drawing; "auto" is bf16 where
    the device computes in it. num_beams: of captioning.
    """

    model: str = "vlv-mini"
    stage1: str | None = None
    inspector: str | None = None
    count: int = 1000
    seed: int = 0
    split: str = "test"
    guidance_scales: tuple[float, ...] = (2.0, 1.0, 3.0, 4.0)
    scheduler: str = "dpm++"
    num_inference_steps: int = 12
    mixed_precision: Precision = "auto"
    num_beams: int = 4
    batch_size: int = 50
    device: str | None = None
    num_threads: int | None = None

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ConfigError(f"count must be at least 2, not {self.count}: controls swap scenes")
        if not self.guidance_scales or min(self.guidance_scales) < 1:
            raise ConfigError(
                "guidance scales must be one or more numbers of at least 1, "
                f"not {list(self.guidance_scales)}"
            )


@dataclass(frozen=True)
class PictureRow:
    """Figures of the pictures of `count` scenes; guidance_scale None where nothing was drawn."""

    source: str
    guidance_scale: float | None
    count: int
    figures: dict[str, Figure]


@dataclass(frozen=True)
class MiniReport:
    """All that was measured; `pictures` and `captions` on all scenes, `guidance` on the first."""

    pictures: list[PictureRow]
    guidance: list[PictureRow]
    captions: dict[str, dict[str, Figure]]
    floors: list[Floor]
    provenance: dict[str, Any] = field(default_factory=dict)


def evaluate_mini(options: MiniOptions, progress: Progress = silent) -> MiniReport:
    """Measure a model.

    What a model folder does not hold is not measured: one without an encoder has no rows of
    embeddings, one without a captioner none of generated captions.

    Raises:
        CheckpointError: a model folder is missing, damaged, or cannot draw.
        ConfigError: impossible options, pictures of another size than the world's, or a stage 1
            without an encoder.
        WorldError: unknown split.
    """
    start = time.perf_counter()
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)
    model = open_world_model(options.model, options.device)
    inspector = Inspector.from_pretrained(options.inspector).to(model.device)
    older = _stage1(options)
    data = held_out_scenes(options.count, seed=options.seed, split=options.split, progress=progress)
    painter = Painter(
        model,
        seed=options.seed,
        num_inference_steps=options.num_inference_steps,
        scheduler=options.scheduler,
        mixed_precision=options.mixed_precision,
        batch_size=options.batch_size,
        progress=progress,
    )
    embeddings = _embed(model, older, data, options.batch_size, progress)
    generated = None
    if embeddings.z is not None and "caption_decoder" in model.manifest.components:
        generated = write_captions(
            model, embeddings.z, options.num_beams, options.batch_size, progress
        )
    judge = PictureJudge(inspector, data.scenes, data.renders, options.seed)
    captions = _judge_captions(model, data, embeddings, generated, options)
    scores, pictures, guidance = _judge_pictures(
        judge,
        painter,
        data,
        conditions(model, data, embeddings, generated),
        options.guidance_scales,
    )
    return MiniReport(
        pictures=pictures,
        guidance=guidance,
        captions=captions,
        floors=mini_floors(judge, scores, captions),
        provenance={
            "evaluation": "mini",
            "options": {**asdict(options), "mixed_precision": painter.mixed_precision},
            "environment": environment(),
            "device": str(model.device),
            "model_sha256": _hash(model),
            "model_provenance": model.provenance,
            "inspector_sha256": folder_hash(Path(options.inspector or DEFAULT_FOLDER)),
            "stage1_sha256": None if older is None else _hash(older),
            "pictures_drawn": painter.drawn,
            "seconds": round(time.perf_counter() - start, 1),
        },
    )


def _stage1(options: MiniOptions) -> VLV | None:
    """The model whose encoder is the one before stage 2, if there is one."""
    name = options.stage1 or _STAGE1.get(options.model)
    if name is None:
        return None
    older = open_model(name, device=options.device)
    if "encoder" not in older.manifest.components:
        raise ConfigError(f"{name} holds no encoder, so it cannot be measured as stage 1")
    return older


def _embed(
    model: VLV, older: VLV | None, data: HeldOut, batch_size: int, progress: Progress
) -> Embeddings:
    z = before = None
    if "encoder" in model.manifest.components:
        z = encode(model, data, batch_size, progress, "embeddings")
    if older is not None:
        before = encode(older, data, batch_size, progress, "embeddings before stage 2")
    return Embeddings(z, before)


def _judge_pictures(
    judge: PictureJudge,
    painter: Painter,
    data: HeldOut,
    conditions: dict[str, Tensor],
    guidance_scales: tuple[float, ...],
) -> tuple[dict[str, PictureScores], list[PictureRow], list[PictureRow]]:
    """Scores by condition; rows of all scenes; rows of the first scenes by guidance scale."""
    scores = {
        "renders": judge.score(data.renders),
        "vae": judge.score(painter.round_trip(data.renders)),
    }
    pictures = [_row(judge, name, None, score) for name, score in scores.items()]
    guidance: list[PictureRow] = []
    for name, c in conditions.items():
        # Guidance leads nowhere from the unconditional context.
        main = 1.0 if name == "unconditional" else guidance_scales[0]
        scores[name] = judge.score(painter.draw(c, main, name))
        pictures.append(_row(judge, name, main, scores[name]))
        if name not in SOURCES:
            continue
        for scale in sorted(set(guidance_scales)):
            if scale == main:
                some = scores[name].first(SWEEP_COUNT)
            else:
                some = judge.score(painter.draw(c[:SWEEP_COUNT], scale, name))
            guidance.append(_row(judge, name, scale, some))
    return scores, pictures, guidance


def _judge_captions(
    model: VLV,
    data: HeldOut,
    embeddings: Embeddings,
    generated: list[Generated] | None,
    options: MiniOptions,
) -> dict[str, dict[str, Figure]]:
    """Figures of captions by source: the model's, the best and the least there can be."""
    found: dict[str, dict[str, Figure]] = {}

    def add(name: str, texts: list[str], ended: list[bool] | None = None) -> None:
        found[name] = caption_figures(texts, data.scenes, options.seed, ended)

    if generated is not None and embeddings.z is not None:
        texts = [made.text for made in generated]
        add("generated", texts, [made.ended for made in generated])
        # What the language model writes of another scene's z, and of no scene's.
        add("shuffled-z", [texts[-1], *texts[:-1]])
        mean = model.read(embeddings.z.mean(dim=0, keepdim=True))
        (blind,) = model.caption_decoder.generate(mean, num_beams=options.num_beams)
        add("mean-z", [blind.text] * len(data))
    add("random-captions", [data.captions[-1], *data.captions[:-1]])
    add("true-captions", data.captions)
    return found


def _row(judge: PictureJudge, name: str, scale: float | None, scores: PictureScores) -> PictureRow:
    return PictureRow(name, scale, len(scores), judge.figures(scores))


def _hash(model: VLV) -> str:
    assert model.folder is not None  # it was opened from one
    return model_hash(model.folder)
