"""`vlv eval bottleneck`: which facts of a scene can be read between image and decoder, and where.

Linear probes on the raw pixels, the image tokens v', the decoder's output h, the caption
embeddings z and the conditioning c (paper, section 3.1), and on blocks of z by position.

Shapes: n scenes, V image tokens, Q queries, D transformer width, d width of z and c.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from vlv.evaluation.bench import Bench, HeldOut, TableConfig, held_out_scenes
from vlv.evaluation.metrics.columns import column
from vlv.evaluation.metrics.probes import Components, Fact, Kind, probe
from vlv.evaluation.metrics.statistics import Bootstrap, Figure, Ratio
from vlv.evaluation.results import Claim, Label, Progress, Result, Row, silent
from vlv.models.vlv import VLVModel
from vlv.world.scene import COLORS, FLOORS, LIGHTS, SHAPES, Scene

# A smaller loss of the mean score counts as none.
TOLERANCE = 0.05

Features = NDArray[np.float32]

# What features are called, from the image to what the decoder gets.
SOURCES = {
    "pixels": "pixels",
    "v'": "image tokens v'",
    "h": "queries' output h",
    "z": "embeddings z",
    "c": "conditioning c",
}
_COUNTS = (1, 2, 3, 4)
_CLAIMS = (
    ("The caption embeddings z keep what the image tokens v' contain of a scene.", "v'", "z"),
    ("The frozen text tower T loses nothing of z.", "z", "c"),
)
_NOTES = [
    "Scores are 0 for a guess without features and 1 for a perfect reading, of scenes that the "
    "probes did not learn from. Count, floor, light: accuracy, from that of the most frequent "
    "class on. Pairs, colours, shapes (is one there?): 2 x balanced accuracy - 1. Large, shiny "
    "(how many objects are), centre (mean place of the objects), place (of an object that is "
    "the only one), rotation (of a cube that is the only one): R².",
    "A probe is a ridge regression on equally many principal components of every source. It "
    "measures what is linearly readable, not what is there: a later box can read better than an "
    "earlier one, and directions of little variance are cut off.",
    "Parts of z are runs of its embeddings. A fact that can be read from a part is not therefore "
    "taken from there by the decoder; the table of compositions shows what is. Control: the probes "
    "learn from z of other scenes.",
]


class BottleneckConfig(TableConfig):
    """train_count, train_seed: the scenes of the split `train` that the probes learn from; by
    default scenes that no stage of the mini model has seen. components: the most, of every source.
    position_blocks: into how many parts z is cut by position.
    """

    train_count: int = Field(2000, ge=50)
    train_seed: int = Field(1, ge=0)
    components: int = Field(256, ge=1)
    position_blocks: int = Field(11, ge=1)


def evaluate(config: BottleneckConfig, progress: Progress = silent) -> Result:
    """Scores of every fact by source, and what is lost between sources.

    Raises:
        CheckpointError, ConfigError: as `Bench`.
    """
    bench = Bench(config, progress)
    learn = held_out_scenes(
        config.train_count, seed=config.train_seed, split="train", progress=progress
    )
    measure = bench.data
    learned, measured = (
        features(bench.model, data, config.batch_size, progress, name)
        for data, name in ((learn, "features to learn from"), (measure, "features"))
    )
    sources = _sources(learned, measured, config.position_blocks)
    facts, true_facts = facts_of(learn.scenes), facts_of(measure.scenes)
    scores: dict[str, dict[str, Ratio]] = {}
    for name in progress(sources, total=len(sources), unit="source", description="probes"):
        x, x_measured = (part.reshape(len(part), -1) for part in sources[name].features)
        reduce = Components(x, config.components)
        seen, seen_measured = reduce(x), reduce(x_measured)
        found = {fact: probe(seen, facts[fact], seen_measured, true_facts[fact]) for fact in facts}
        scores[name] = {"mean_score": _mean(found.values()), **found}

    bootstrap = Bootstrap(len(measure), config.seed)
    return Result(
        name="bottleneck",
        title="What can be read between image and decoder",
        paper="section 3.1",
        rows=[
            Row(
                source.labels,
                len(measure),
                bootstrap.figures(scores[name]),
            )
            for name, source in sources.items()
        ],
        claims=[
            _claim(statement, before, after, scores, bootstrap)
            for statement, before, after in _CLAIMS
        ],
        notes=[
            *_NOTES,
            *(_losses(before, after, scores, bootstrap) for _, before, after in _CLAIMS),
        ],
        provenance=bench.provenance("bottleneck"),
    )


@dataclass(frozen=True)
class _Source:
    """Features of the scenes to learn from and of those to measure on, and the row's labels."""

    labels: dict[str, Label]
    features: tuple[Features, Features]


def _sources(
    learned: dict[str, Features], measured: dict[str, Features], position_blocks: int
) -> dict[str, _Source]:
    """Those of `SOURCES`, the control, and the parts of z."""
    sources = {
        name: _Source({"read from": words}, (learned[name], measured[name]))
        for name, words in SOURCES.items()
    }
    z, z_measured = learned["z"], measured["z"]
    sources["other z"] = _Source(
        {"read from": "control: z of other scenes"}, (np.roll(z, 1, axis=0), z_measured)
    )
    for block in np.array_split(np.arange(z.shape[1]), min(position_blocks, z.shape[1])):
        first = int(block[0])
        sources[f"z from {first}"] = _Source(
            {"read from": "part of z", "first position": first}, (z[:, block], z_measured[:, block])
        )
    return sources


@torch.no_grad()
def features(
    model: VLVModel, data: HeldOut, batch_size: int, progress: Progress, name: str
) -> dict[str, Features]:
    """Features of the scenes' renders by source, as named in `SOURCES`; (n, tokens, width) each,
    and pixels (n, side, side, 3).
    """
    encoder = model.encoder
    parts: dict[str, list[Tensor]] = {source: [] for source in SOURCES}

    def keep_tokens(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        parts["v'"].append(output)

    def keep_h(_module: nn.Module, inputs: tuple[Tensor]) -> None:
        parts["h"].append(inputs[0])

    # The encoder returns z only; v' and h are computed on the way.
    hooks = [
        encoder.florence.multi_modal_projector.register_forward_hook(keep_tokens),
        encoder.phi.register_forward_pre_hook(keep_h),
    ]
    try:
        starts = range(0, len(data), batch_size)
        for at in progress(starts, total=len(starts), unit="batch", description=name):
            renders = data.renders[at : at + batch_size]
            z = encoder(encoder.preprocess([Image.fromarray(one) for one in renders]))
            parts["pixels"].append(torch.from_numpy(renders) / 255)
            parts["z"].append(z)
            parts["c"].append(model.condition(z).tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return {source: torch.cat(some).float().cpu().numpy() for source, some in parts.items()}


def facts_of(scenes: Sequence[Scene]) -> dict[str, Fact]:
    """The facts by the name of their figure, each with a value or more for every scene."""

    def of(kind: Kind, values: Callable[[Scene], Sequence[float]]) -> Fact:
        return Fact(kind, np.array([values(scene) for scene in scenes], dtype=np.float64))

    return {
        "read_floor": of("class", lambda scene: [scene.floor == floor for floor in FLOORS]),
        "read_light": of("class", lambda scene: [scene.light == light for light in LIGHTS]),
        "read_count": of("class", lambda scene: [len(scene.objects) == n for n in _COUNTS]),
        "read_pairs": of(
            "presence",
            lambda scene: [
                any((o.shape, o.color) == pair for o in scene.objects)
                for pair in product(SHAPES, COLORS)
            ],
        ),
        "read_colors": of(
            "presence", lambda scene: [any(o.color == c for o in scene.objects) for c in COLORS]
        ),
        "read_shapes": of(
            "presence", lambda scene: [any(o.shape == s for o in scene.objects) for s in SHAPES]
        ),
        "read_large": of("number", lambda scene: [sum(o.size == "large" for o in scene.objects)]),
        "read_shiny": of(
            "number", lambda scene: [sum(o.material == "shiny" for o in scene.objects)]
        ),
        "read_centre": of(
            "number", lambda scene: np.mean([(o.x, o.z) for o in scene.objects], axis=0).tolist()
        ),
        "read_place": of("number", _place_of_one),
        "read_rotation": of("number", _rotation_of_one_cube),
    }


def _place_of_one(scene: Scene) -> tuple[float, float]:
    if len(scene.objects) != 1:
        return math.nan, math.nan
    return scene.objects[0].x, scene.objects[0].z


def _rotation_of_one_cube(scene: Scene) -> tuple[float, float]:
    """(cos, sin) of four times the angle: a cube looks the same after a quarter turn."""
    cubes = [obj for obj in scene.objects if obj.shape == "cube"]
    if len(cubes) != 1:
        return math.nan, math.nan
    return math.cos(4 * cubes[0].rotation), math.sin(4 * cubes[0].rotation)


def _mean(ratios: Iterable[Ratio]) -> Ratio:
    """The mean of the figures that can be measured, as one ratio of sums."""
    known = [ratio for ratio in ratios if ratio.under.sum() > 0]
    return Ratio(
        sum((ratio.over / ratio.under.sum() for ratio in known), np.zeros(len(known[0].over))),
        sum((ratio.under / ratio.under.sum() for ratio in known), np.zeros(len(known[0].over))),
    )


def _claim(
    statement: str,
    before: str,
    after: str,
    scores: dict[str, dict[str, Ratio]],
    bootstrap: Bootstrap,
) -> Claim:
    lost = bootstrap.difference(scores[after]["mean_score"], scores[before]["mean_score"])
    return Claim(
        statement,
        "section 3.1, without figures",
        f"mean score of {after} less that of {before}, plus {TOLERANCE:g}, below which a loss "
        "counts as none",
        Figure(*(value + TOLERANCE for value in (lost.value, lost.low, lost.high))),
    )


def _losses(
    before: str, after: str, scores: dict[str, dict[str, Ratio]], bootstrap: Bootstrap
) -> str:
    """The fact that loses most, in a sentence."""
    changes = {
        fact: bootstrap.difference(scores[after][fact], scores[before][fact])
        for fact in scores[before]
        if fact != "mean_score"
    }
    known = {fact: change for fact, change in changes.items() if not math.isnan(change.value)}
    fact, change = min(known.items(), key=lambda item: item[1].value)
    return (
        f"From {before} to {after} the largest change for the worse is of {column(fact).heading}: "
        f"{change.value:+.2f} (95% {change.low:+.2f} to {change.high:+.2f})."
    )
