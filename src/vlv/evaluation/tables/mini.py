"""`vlv eval mini`: pictures and captions of held-out scenes, with their controls.

Pictures are drawn from every conditioning with the same noise for the same scene. One guidance
scale is measured on all scenes, with the controls. The scales of the sweep are compared on the
first `SWEEP_COUNT` scenes, since drawing takes the time.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from vlv.errors import ConfigError
from vlv.evaluation.bench import Bench, TableConfig
from vlv.evaluation.metrics.captions import caption_figures
from vlv.evaluation.metrics.columns import FRECHET_NOTE
from vlv.evaluation.metrics.pictures import PictureScores
from vlv.evaluation.metrics.statistics import Figure
from vlv.evaluation.results import (
    PART,
    Claim,
    Label,
    Progress,
    Result,
    Row,
    opened_hash,
    silent,
)
from vlv.evaluation.sampling import CONTROLS, SOURCES, Embeddings, conditionings, encode
from vlv.inference.loading import open_model
from vlv.models.conditioning import Conditioning, LatePrompt
from vlv.models.config import CAPTION_START, NUM_INFERENCE_STEPS, SCHEDULER
from vlv.models.outputs import Caption
from vlv.models.vlv import VLVModel
from vlv.world.scene import SHAPES

SWEEP_COUNT = 250
# The encoder before stage 2 of a model in the package.
_STAGE1 = {"vlv-mini": "vlv-mini-stage1"}

# The tables, and the figures of each.
PICTURES, OBJECTS, GUIDANCE, CAPTIONS = "pictures", "objects", "guidance scales", "captions"
_PICTURE_FIGURES = (
    *("f1", "centre_error", "pixel_error", "psnr", "count_accuracy", "size_accuracy"),
    *("material_accuracy", "rotation_error", "floor_accuracy", "light_accuracy", "frechet"),
)
_FIGURES = {
    PICTURES: _PICTURE_FIGURES,
    OBJECTS: (
        *("precision", "recall", "f1_any_shape", "f1_any_color"),
        *(f"{shape}_accuracy" for shape in SHAPES),
    ),
    GUIDANCE: _PICTURE_FIGURES,
}
# z in the first steps, the model's own captions in the last ones.
BOTH = "both"
NAMES = {
    "renders": "true renders",
    "vae": "VAE round trip",
    "true-captions": "true captions",
    "embeddings": "embeddings z",
    "embeddings-before-stage2": "z before stage 2",
    "generated-captions": "generated captions",
    BOTH: "embeddings z, then generated captions",
    "generated": "generated from z",
    "shuffled-z": "control: shuffled z",
    "mean-z": "control: mean z",
    "unconditional": "control: unconditional",
    "random-captions": "control: random captions",
}
_NOTES = (
    "F1: objects with the right shape and colour. Centre error: of objects found, in world units "
    "on the floor (a small object's radius is 0.68). Pixel error: mean absolute difference, of "
    f"255. {FRECHET_NOTE}",
    "Any shape, any colour: F1 without one of the two conditions. Spheres to cones: the share that "
    "is drawn as one, of such objects as are found by their colour.",
)
_ABOVE_CONTROLS = "F1 from embeddings above the best control"
# Of captions of which fewer sentences can be read, the figures say nothing.
_READABLE = 0.5
_PLACES = "centre error from true captions above that from embeddings"


class MiniConfig(TableConfig):
    """stage1: id or folder whose encoder is measured as the one before stage 2. None is the
    package's for the package's model, and otherwise none. guidance_scale: of all scenes.
    guidance_sweep: scales compared on the first scenes; empty leaves that table out.
    """

    count: int = Field(1000, ge=2)
    scheduler: str = SCHEDULER
    num_inference_steps: int = Field(NUM_INFERENCE_STEPS, ge=1)
    stage1: str | None = None
    guidance_scale: float = Field(2.0, ge=1)
    guidance_sweep: tuple[Annotated[float, Field(ge=1)], ...] = (1.0, 2.0, 3.0, 4.0)


def evaluate(config: MiniConfig, progress: Progress = silent) -> Result:
    """Measure pictures and captions of every source and control.

    What a model folder does not hold is not measured: a model without an encoder has no rows of
    embeddings, one without a caption decoder has none of generated captions.

    Raises:
        CheckpointError: a model folder is missing, damaged, or cannot draw.
        ConfigError: as `Bench`; or a stage 1 without an encoder, or no such scheduler.
    """
    bench = Bench(config, progress)
    # Opened first: what is missing is reported before the work.
    sampler, _ = bench.image_sampler, bench.inspector
    before = _before_stage2(config)
    embeddings = _embed(bench, before)
    generated = _generate(bench, embeddings)
    captions = _caption_rows(bench, embeddings, generated)
    drawn_from = conditionings(bench.model, bench.data.captions, embeddings, generated)
    drawn = _draw(bench, drawn_from, config.guidance_scale)
    result = Result(
        name="mini",
        title="Pictures and captions of held-out scenes, with their controls",
        paper="what tables 1 to 6 rest on: one z that is drawn from and captioned",
        rows=[
            *(_row(bench, part, one) for part in (PICTURES, OBJECTS) for one in drawn.values()),
            *(_row(bench, GUIDANCE, one) for one in _sweep(bench, config, drawn_from, drawn)),
            *captions,
        ],
        claims=_claims(bench, {name: one.scores for name, one in drawn.items()}),
        provenance={
            **bench.provenance("mini"),
            "mixed_precision": sampler.mixed_precision,
            "model_provenance": bench.model.provenance,
            "stage1_sha256": None if before is None else opened_hash(before),
            "pictures_drawn": sampler.drawn,
        },
    )
    notes = [*_NOTES, *map(str, thresholds(result)), *_unreadable_notes(captions, config.model)]
    return replace(result, notes=notes)


def _before_stage2(config: MiniConfig) -> VLVModel | None:
    """The model whose encoder is the one before stage 2, if there is one."""
    name = config.stage1 or _STAGE1.get(config.model)
    if name is None:
        return None
    model = open_model(name, device=config.device)
    if "encoder" not in model.manifest.components:
        raise ConfigError(f"{name} holds no encoder, so it cannot be measured as stage 1")
    return model


def _embed(bench: Bench, before: VLVModel | None) -> Embeddings:
    z = bench.z if "encoder" in bench.model.manifest.components else None
    if before is None:
        return Embeddings(z, None)
    name, size = "embeddings before stage 2", bench.config.batch_size
    return Embeddings(z, encode(before, bench.data.renders, size, bench.progress, name))


def _generate(bench: Bench, embeddings: Embeddings) -> list[Caption] | None:
    if embeddings.z is None or "caption_decoder" not in bench.model.manifest.components:
        return None
    return bench.generated


@dataclass(frozen=True)
class _Drawn:
    """Scores of the pictures of one source. guidance_scale: None where nothing was drawn."""

    source: str
    guidance_scale: float | None
    scores: PictureScores


def _draw(
    bench: Bench, drawn_from: Mapping[str, Conditioning], guidance_scale: float
) -> dict[str, _Drawn]:
    """The pictures of every source, on all scenes."""
    judge, sampler = bench.judge, bench.image_sampler
    renders = bench.data.renders
    found = {
        "renders": _Drawn("renders", None, judge.score(renders)),
        "vae": _Drawn("vae", None, judge.score(sampler.round_trip(renders))),
    }
    for name, c in drawn_from.items():
        # Guidance has no effect on the unconditional context.
        scale = 1.0 if name == "unconditional" else guidance_scale
        found[name] = _Drawn(name, scale, judge.score(sampler.draw(c, scale, name)))
        if name == "generated-captions" and bench.model.decoder.family.takes_late_prompts:
            late = LatePrompt(c, bench.model.text_tower.unconditional(1), CAPTION_START)
            both = sampler.draw(drawn_from["embeddings"], scale, BOTH, late)
            found[BOTH] = _Drawn(BOTH, scale, judge.score(both))
    return found


def _sweep(
    bench: Bench,
    config: MiniConfig,
    drawn_from: Mapping[str, Conditioning],
    drawn: Mapping[str, _Drawn],
) -> Iterator[_Drawn]:
    """The pictures of the first scenes at every guidance scale of the sweep."""
    for name in (name for name in SOURCES if name in drawn_from):
        for scale in sorted(set(config.guidance_sweep)):
            if scale == config.guidance_scale:
                scores = drawn[name].scores.first(SWEEP_COUNT)
            else:
                c = drawn_from[name][:SWEEP_COUNT]
                scores = bench.judge.score(bench.image_sampler.draw(c, scale, name))
            yield _Drawn(name, scale, scores)


def _row(bench: Bench, part: str, drawn: _Drawn) -> Row:
    labels: dict[str, Label] = {PART: part, "drawn from": NAMES[drawn.source]}
    if drawn.guidance_scale is not None:
        labels["guidance"] = drawn.guidance_scale
    figures = bench.judge.figures(drawn.scores)
    return Row(labels, len(drawn.scores), {name: figures[name] for name in _FIGURES[part]})


def _caption_rows(
    bench: Bench, embeddings: Embeddings, generated: list[Caption] | None
) -> list[Row]:
    """The model's captions, the best possible ones and the controls."""
    true = bench.data.captions
    sources = {
        "random-captions": [true[-1], *true[:-1]],
        "true-captions": true,
    }
    ended: dict[str, list[bool]] = {}
    if generated is not None and embeddings.z is not None:
        texts = [made.text for made in generated]
        ended["generated"] = [made.ended for made in generated]
        # Captions of another scene's z, and of the mean z of all scenes.
        mean = bench.model.read(embeddings.z.mean(dim=0, keepdim=True))
        (of_mean,) = bench.model.caption_decoder.generate(mean, num_beams=bench.config.num_beams)
        sources = {
            "generated": texts,
            "shuffled-z": [texts[-1], *texts[:-1]],
            "mean-z": [of_mean.text] * len(texts),
            **sources,
        }
    scenes, seed = bench.data.scenes, bench.config.seed
    return [
        Row(
            {PART: CAPTIONS, "captions": NAMES[name]},
            len(texts),
            caption_figures(texts, scenes, seed, ended.get(name)),
        )
        for name, texts in sources.items()
    ]


def _unreadable_notes(captions: list[Row], model: str) -> list[str]:
    """Of a model whose captions say nothing of scenes, as after a fine-tune on other pictures."""
    readable = [
        row.figures["readable"].value
        for row in captions
        if row.labels["captions"] == NAMES["generated"]
    ]
    if not readable or readable[0] >= _READABLE:
        return []
    return [
        f"Of the sentences in the model's captions, {100 * readable[0]:.0f}% can be read: this "
        "table judges captions in the language of the embedded world, and has nothing to judge "
        f"others by. To measure a model of other pictures, run: vlv eval pairs SET --model {model}"
    ]


def _claims(bench: Bench, scores: Mapping[str, PictureScores]) -> list[Claim]:
    if "embeddings" not in scores:
        return []
    own, judge = scores["embeddings"], bench.judge
    above = [judge.difference("f1", own, scores[name]) for name in CONTROLS]
    return [
        Claim(
            "Caption embeddings learned from images alone carry what is in the picture.",
            "FID of pictures drawn from the embeddings 9.71 / 7.22 / 7.70 / 7.84 at guidance 1 / 2 "
            "/ 3 / 4 (table 5, 40M images)",
            _ABOVE_CONTROLS,
            min(above, key=lambda figure: figure.value),
        ),
        Claim(
            "Reconstructions from the embeddings keep objects in their places.",
            "L1 error of the centres of 3D boxes 0.0988 (table 6, 40M images)",
            _PLACES,
            judge.difference("centre_error", scores["true-captions"], own),
        ),
    ]


@dataclass(frozen=True)
class Threshold:
    """A figure, and the least value of it with which a mini model may be shipped."""

    name: str
    figure: Figure
    least: float

    @property
    def met(self) -> bool:
        """Whether the value itself, not its interval, reaches the threshold; NaN does not."""
        return self.figure.value >= self.least

    def __str__(self) -> str:
        """In a sentence."""
        figure = self.figure
        if math.isnan(figure.value):
            return f"Threshold missed: {self.name}, at least {self.least:g}; nothing to measure."
        return (
            f"Threshold {'met' if self.met else 'missed'}: {self.name}, at least {self.least:g}; "
            f"reached {figure.value:.3f} (95% {figure.low:.3f} to {figure.high:.3f})."
        )


def thresholds(result: Result) -> list[Threshold]:
    """The thresholds of all that was measured of a model."""
    pictures, captions = (
        {row.labels[label]: row.figures for row in result.rows if row.labels[PART] == part}
        for part, label in ((PICTURES, "drawn from"), (CAPTIONS, "captions"))
    )
    claimed = {claim.measure: claim.difference for claim in result.claims}
    found = [
        Threshold("inspector on true renders, F1", pictures[NAMES["renders"]]["f1"], 0.95),
        Threshold("VAE round trip, PSNR in dB", pictures[NAMES["vae"]]["psnr"], 29.0),
        *(
            Threshold(name, claimed[name], least)
            for name, least in ((_ABOVE_CONTROLS, 0.3), (_PLACES, 0.0))
            if name in claimed
        ),
    ]
    if (generated := captions.get(NAMES["generated"])) is not None:
        found += [
            Threshold("recall of objects in captions", generated["object_recall"], 0.85),
            Threshold("precision of claims in captions", generated["precision"], 0.85),
            Threshold("captions that end by themselves", generated["ended"], 0.99),
        ]
    return found
