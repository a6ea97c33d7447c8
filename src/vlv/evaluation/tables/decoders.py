"""`vlv eval decoders`: does a VLV through a flow transformer do what one through a U-Net does?

Two models are trained with equal operations on the same pictures: `model` through the classes of
Stable Diffusion 3 (a transformer that learns a flow), `against` through a U-Net that predicts v.
Both are measured on the same scenes, from the same noise.

Published pipelines read the pooled vector of a text at its end token. z has none, so that the text
tower reads it at the last position. What that changes is measured with true captions, which have
both.

Shapes: n scenes, L token ids of all slots.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from pydantic import Field, field_validator

from vlv.checkpoints.opening import load_model
from vlv.evaluation.bench import Bench, TableConfig
from vlv.evaluation.metrics.captions import caption_ratios
from vlv.evaluation.metrics.flops import sample_flops
from vlv.evaluation.metrics.pictures import PictureScores
from vlv.evaluation.metrics.statistics import Bootstrap, Figure, Ratio
from vlv.evaluation.results import PART, Claim, Label, Progress, Result, Row, silent
from vlv.evaluation.tables import verify
from vlv.models.conditioning import Conditioning
from vlv.models.config import NUM_INFERENCE_STEPS, SCHEDULER
from vlv.models.text_tower import TextTower
from vlv.training.reproduce import presets, reproduce
from vlv.world.inspector import Inspector

TRAINING, PICTURES, CAPTIONS, ERRORS = "training", "pictures", "captions", "wrong sentences"
TRUE, LAST, OWN = "true captions", "true captions, pooled at the last position", "embeddings z"
_STAGES = ("text-to-image", "stage1", "stage2")
_PICTURE_FIGURES = (
    *("f1", "f1_any_shape", "f1_any_color", "centre_error", "pixel_error", "count_accuracy"),
    *("size_accuracy", "material_accuracy", "floor_accuracy", "light_accuracy", "frechet"),
)
_CAPTION_FIGURES = ("precision", "recall", "object_recall", "hallucinated", "flawless", "words")
_PAPER = "none: the paper names newer decoders as its next step"


class DecodersConfig(TableConfig):
    """model, against: a preset of training, which is run first where it has not ended, or a folder
    or id of a model. guidance_scale: of pictures. verified: scenes whose sentences are judged; 0
    omits that part.
    """

    model: str = "decoders/mini"
    against: str = "decoders/mini-unet"
    count: int = Field(500, ge=2)
    scheduler: str = SCHEDULER
    num_inference_steps: int = Field(NUM_INFERENCE_STEPS, ge=1)
    guidance_scale: float = Field(3.0, ge=1)
    verified: int = Field(100, ge=0)

    @field_validator("verified")
    @classmethod
    def _none_or_some(cls, verified: int) -> int:
        # Checked before hours of training: the table of sentences needs two scenes.
        if verified == 1:
            raise ValueError("0 omits the part; otherwise give 2 or more scenes")
        return verified


def evaluate(config: DecodersConfig, progress: Progress = silent) -> Result:
    """Train what is missing, and compare.

    Raises:
        TrainingError: a stage failed.
        CheckpointError, ConfigError: as `Bench`.
    """
    folders = {name: _trained(name) for name in (config.model, config.against)}
    sides = [
        Side(name, Bench(config.model_copy(update={"model": str(folder)}), progress))
        for name, folder in folders.items()
    ]
    rows = [
        *(row for side in sides for row in side.training_rows()),
        *(row for side in sides for row in side.picture_rows()),
        *(side.caption_row() for side in sides),
        *(row for side in sides for row in side.error_rows()),
    ]
    return Result(
        name="decoders",
        title="A transformer that learns a flow against a U-Net, at equal operations",
        paper=_PAPER,
        rows=rows,
        claims=_claims(*sides),
        notes=[
            "F1: objects with the right shape and colour. Centre error: of objects found, in world "
            "units on the floor. Operations: of training, forward and backward.",
            f"Pictures: {config.num_inference_steps} steps of {config.scheduler} at guidance "
            f"{config.guidance_scale:g}, from the same noise.",
            *(
                f"{side.name} has no verifier, so it has no rows of wrong sentences: too few of "
                "its sentences are true."
                for side in sides
                if config.verified and not side.verifies
            ),
        ],
        provenance={
            side.name: {**side.bench.provenance("decoders"), "made": side.bench.model.provenance}
            for side in sides
        },
    )


def _trained(name: str) -> Path | str:
    """The model of a preset, trained to the end; any other name is a model's own."""
    return reproduce(name) / "mini" if name in presets() else name


@dataclass(frozen=True)
class Side:
    """One of the two models, and what is measured of it."""

    name: str
    bench: Bench

    @property
    def config(self) -> DecodersConfig:
        """The fields of the table, with this model."""
        config = self.bench.config
        assert isinstance(config, DecodersConfig)  # it was made with one
        return config

    @property
    def labels(self) -> dict[str, Label]:
        """What the rows of this model say of it."""
        decoder = self.bench.model.decoder
        return {
            "model": self.name,
            "denoiser": type(decoder.denoiser).__name__,
            "predicts": decoder.noise_process.prediction_type,
        }

    @property
    def verifies(self) -> bool:
        """Whether the model has a verifier, which marks wrong sentences."""
        return "verifier" in self.bench.model.manifest.components

    @cached_property
    def scores(self) -> dict[str, PictureScores]:
        """Of the pictures by what they are drawn from."""
        bench = self.bench
        tower = bench.model.text_tower
        with torch.no_grad():
            drawn_from = {TRUE: tower.encode_text(bench.data.captions)}
            if tower.pooled_width:
                drawn_from[LAST] = pooled_at_the_last_position(tower, bench.data.captions)
            drawn_from[OWN] = bench.model.condition(bench.z)
        scale = self.config.guidance_scale
        return {
            name: bench.judge.score(bench.image_sampler.draw(c, scale, f"{self.name}, {name}"))
            for name, c in drawn_from.items()
        }

    @cached_property
    def caption_ratios(self) -> dict[str, Ratio]:
        """Of the captions that the model writes."""
        return caption_ratios(self.bench.captions, self.bench.data.scenes)

    def training_rows(self) -> list[Row]:
        """The operations of each stage, by the records of their runs."""
        stages = self.bench.model.provenance.get("stages", {})
        made = {stage: stages[stage] for stage in _STAGES if stage in stages}
        blank = load_model(str(self.bench.model_folder), device="meta")
        inspector = Inspector.from_pretrained(self.config.inspector).to("meta")
        rows = []
        for stage, record in made.items():
            samples = record["samples_seen"]
            flops = sample_flops(stage, record, blank, inspector)
            figures = {
                "sample_gflop": flops / 1e9,
                "total_pflop": samples * flops / 1e15,
                "hours": record["seconds"] / 3600,
            }
            labels = {PART: TRAINING, **self.labels, "stage": stage}
            counted = {name: Figure(value) for name, value in figures.items()}
            rows.append(Row(labels, samples, counted))
        return rows

    def picture_rows(self) -> list[Row]:
        """A row for each conditioning."""
        rows = []
        for name, scores in self.scores.items():
            figures = self.bench.judge.figures(scores)
            labels = {PART: PICTURES, **self.labels, "drawn from": name}
            rows.append(Row(labels, len(scores), {key: figures[key] for key in _PICTURE_FIGURES}))
        return rows

    def caption_row(self) -> Row:
        """What the captions state."""
        bootstrap = Bootstrap(self.config.count, self.config.seed)
        figures = {name: bootstrap.figure(self.caption_ratios[name]) for name in _CAPTION_FIGURES}
        return Row({PART: CAPTIONS, **self.labels}, self.config.count, figures)

    def error_rows(self) -> list[Row]:
        """How well its denoising error finds wrong sentences, by kind of error."""
        config = self.config
        if not (config.verified and self.verifies):
            return []
        shared = {name: getattr(config, name) for name in TableConfig.model_fields}
        judged = verify.VerifyConfig(
            **{**shared, "count": min(config.verified, config.count)}, best_of=1, others=0
        )
        return [
            Row({PART: ERRORS, **self.labels, "error": row.labels["what"]}, row.count, row.figures)
            for row in verify.evaluate(judged, self.bench.progress).rows
            if row.labels[PART] == verify.ERROR_ROWS
        ]


def pooled_at_the_last_position(tower: TextTower, texts: list[str]) -> Conditioning:
    """The c of texts (n,L), entered as z is: by their token embeddings, so that the pooled vector
    is read where that of z is.

    For towers whose slots are the token embeddings of their encoders, equally many of each.
    """
    ids = tower.ids_of_slots(tower.tokenise(texts).to(tower.device))
    embedded = [
        encoder.get_input_embeddings()(of_slot)
        for encoder, of_slot in zip(tower.encoders.values(), ids, strict=True)
    ]
    c: Conditioning = tower(torch.cat(embedded, dim=-1))
    return c


def _claims(flow: Side, unet: Side) -> list[Claim]:
    judge = flow.bench.judge
    bootstrap = Bootstrap(flow.config.count, flow.config.seed)

    def pictures(name: str, source: str, first: Side = flow, second: Side = unet) -> Figure:
        return judge.difference(name, first.scores[source], second.scores[source])

    def captions(name: str) -> Figure:
        return bootstrap.difference(flow.caption_ratios[name], unet.caption_ratios[name])

    compared: Mapping[tuple[str, str], Figure] = {
        ("True captions are drawn better", "F1"): pictures("f1", TRUE),
        ("Embeddings z are drawn better", "F1"): pictures("f1", OWN),
        ("Embeddings z put objects nearer to their places", "centre error, less"): pictures(
            "centre_error", OWN, unet, flow
        ),
        ("Captions name more objects", "objects named"): captions("object_recall"),
        ("Captions claim less that is false", "true claims"): captions("precision"),
    }
    claims = [
        Claim(f"{what} through {flow.name} than {unet.name}.", _PAPER, measure, difference)
        for (what, measure), difference in compared.items()
    ]
    return claims + [
        Claim(
            f"True captions are drawn better by {side.name} with the pooled vector at the end "
            "token than at the last position.",
            _PAPER,
            "F1",
            judge.difference("f1", side.scores[TRUE], side.scores[LAST]),
        )
        for side in (flow, unet)
        if LAST in side.scores
    ]
