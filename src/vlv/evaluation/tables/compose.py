"""`vlv eval compose`: one picture from the embeddings of two (the counterpart of figure 6).

The paper keeps the leading embeddings of both images and shows pictures: the layout is that of the
first, style or background that of the second. Here it is counted what a picture takes from each
scene, over splits of the embeddings, for pairs of scenes without a common floor, light or object.

Shapes: p pairs, Q embeddings, d width of z and c.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from pydantic import Field, NonNegativeInt

from vlv.errors import ConfigError
from vlv.evaluation.bench import Bench, TableConfig
from vlv.evaluation.metrics.pictures import match_objects
from vlv.evaluation.metrics.statistics import Bootstrap, Ratio, mean_of
from vlv.evaluation.results import Claim, Label, Progress, Result, Row, silent
from vlv.models.conditioning import Conditioning
from vlv.models.vlv import Order, joined
from vlv.world.inspector import Inspection
from vlv.world.language import short_caption
from vlv.world.render import render
from vlv.world.scene import Scene

Split = tuple[NonNegativeInt, NonNegativeInt]
Pair = tuple[Scene, Scene]  # A and B

# The default grid, in elevenths of Q = 77: a step is 7 embeddings.
_FULL_SPLITS = (1, 3, 5, 7, 9, 10)
_SHORT_SPLITS = ((3, 3), (5, 3), (7, 2))
_NOTES = [
    "A and B have no floor, light or shape-colour pair in common, and no object of the colour of "
    "the other's floor. Objects: recall by shape and colour, as the inspector sees it. Success: "
    "all objects of A are there and the floor is B's; reversed: all of B's on A's floor.",
    "Leading: z[:N] of A, then z[:M] of B, as in the paper. Trailing: the last M embeddings of B "
    "instead, which at N + M = Q all stay at their own positions.",
    "Shuffled: the pictures of the split that the claim selects, measured against another pair. "
    "The true caption and the true render are of A's objects on B's floor in B's light: what the "
    "decoder can draw of it, and what the inspector sees of it.",
]
_CLAIMS: dict[Order, tuple[str, str]] = {
    "leading": (
        "Leading embeddings of two images make one picture, with the objects of the first on the "
        "floor of the second.",
        "figure 6: pictures only, without lengths or a score",
    ),
    "trailing": (
        "Leading embeddings of one image and trailing ones of another make one picture, with the "
        "objects of the first on the floor of the second.",
        "not in the paper, which keeps leading embeddings of both",
    ),
}


class ComposeConfig(TableConfig):
    """splits: [N, M], how many embeddings of A and of B are kept; None is a grid over the model's
    Q. orders: which embeddings of B are kept, its leading ones (the paper's way) or its trailing
    ones. guidance_scale: of drawing. Both ends, all of A and all of B, are always measured.
    """

    count: int = Field(200, ge=2)
    splits: tuple[Split, ...] | None = Field(None, min_length=1)
    orders: tuple[Order, ...] = Field(("leading", "trailing"), min_length=1)
    guidance_scale: float = Field(2.0, ge=1)


def evaluate(config: ComposeConfig, progress: Progress = silent) -> Result:
    """What pictures drawn from the embeddings of two scenes take from each.

    Raises:
        CheckpointError, ConfigError: as `Bench`; or a split keeps more embeddings than there are,
            or the scenes make fewer than two pairs.
    """
    bench = Bench(config, progress)
    queries = bench.model.encoder.settings.num_queries
    splits = default_splits(queries) if config.splits is None else config.splits
    _check_splits(splits, queries, bench.model.text_tower.positions)
    numbers = pairs_of(bench.data.scenes)
    if len(numbers) < 2:
        raise ConfigError(
            f"{config.count} scenes make {len(numbers)} pairs with nothing in common, and two are "
            "needed; raise count"
        )
    pairs = [(bench.data.scenes[a], bench.data.scenes[b]) for a, b in numbers]
    z_a, z_b = (bench.z[list(side)] for side in zip(*numbers, strict=True))

    def seen(c: Conditioning, name: str) -> list[Inspection]:
        return bench.inspector.inspect(bench.image_sampler.draw(c, config.guidance_scale, name))

    condition = bench.model.condition
    ends = {name: seen(condition(z), name) for name, z in (("A", z_a), ("B", z_b))}
    composed = {
        order: {
            split: seen(condition(joined(z_a, z_b, *split, order)), f"{order} {_words(split)}")
            for split in dict.fromkeys(splits)
        }
        for order in dict.fromkeys(config.orders)
    }
    wanted = [replace(a, floor=b.floor, light=b.light) for a, b in pairs]
    captions = [
        short_caption(scene, np.random.default_rng([config.seed, number]))
        for number, scene in enumerate(wanted)
    ]

    table = _Table(pairs, config.seed)
    for order, views in composed.items():
        for split, view in views.items():
            labels: dict[str, Label] = {"keep A": split[0], "together": sum(split)}
            table.add({"drawn from": f"A + B, {order}", **labels}, view)
    for name, view in ends.items():
        table.add({"drawn from": f"{name} alone"}, view)
    claims = []
    for order, views in composed.items():
        best, claim = _claim(order, views, list(ends.values()), pairs, config.seed)
        claims.append(claim)
        table.add_shuffled({"drawn from": f"control: shuffled, {order}"}, views[best])
    c = bench.model.text_tower.encode_text(captions)
    table.add({"drawn from": "true captions of both"}, seen(c, "true captions"))
    renders = np.stack([render(scene) for scene in wanted])
    table.add({"drawn from": "true renders of both"}, bench.inspector.inspect(renders))
    return Result(
        name="compose",
        title="Composition: what is taken from A and what from B",
        paper="figure 6",
        rows=table.rows,
        claims=claims,
        notes=_NOTES,
        provenance=bench.provenance("compose"),
    )


def default_splits(queries: int) -> tuple[Split, ...]:
    """Splits of Q embeddings that keep Q together, and some that keep fewer."""
    full = [(part, 11 - part) for part in _FULL_SPLITS]
    whole = {a: round(queries * a / 11) for a, _ in full}
    return (
        *((whole[a], queries - whole[a]) for a, _ in full),
        *((round(queries * a / 11), round(queries * b / 11)) for a, b in _SHORT_SPLITS),
    )


def pairs_of(scenes: Sequence[Scene]) -> list[tuple[int, int]]:
    """For every scene A the next scene B, in a circle, with which it can be composed.

    The two differ in floor, light and every shape-colour pair, and no object has the colour of
    the other's floor, since no scene of the world has such an object. An A without a B is omitted.
    """
    count = len(scenes)
    found = []
    for a in range(count):
        others = (b % count for b in range(a + 1, a + count))
        b = next((b for b in others if _apart(scenes[a], scenes[b])), None)
        if b is not None:
            found.append((a, b))
    return found


def _apart(a: Scene, b: Scene) -> bool:
    looks_a, looks_b = ({(obj.shape, obj.color) for obj in scene.objects} for scene in (a, b))
    return (
        a.floor != b.floor
        and a.light != b.light
        and not looks_a & looks_b
        and all(color != b.floor for _, color in looks_a)
        and all(color != a.floor for _, color in looks_b)
    )


def pair_ratios(seen: Sequence[Inspection], pairs: Sequence[Pair]) -> dict[str, Ratio]:
    """What the inspector found against both scenes of every pair.

    joint: all objects of A and B's floor; joint_reversed: all of B and A's floor. objects_of_a,
    objects_of_b: recall over all pairs; all_of_a: pictures with all of A's. floor_of_a, floor_of_b
    and light_of_b: of pictures. There are two lights, so the rest have the light of A.
    """
    both = list(zip(seen, pairs, strict=True))
    found = np.array([[_found(one, side) for side in pair] for one, pair in both], dtype=np.float64)
    there = np.array([[len(side.objects) for side in pair] for pair in pairs], dtype=np.float64)
    whole = found == there
    floor = np.array([[one.floor == side.floor for side in pair] for one, pair in both])
    light_of_b = np.array([one.light == b.light for one, (_, b) in both])
    return {
        "joint": mean_of(whole[:, 0] & floor[:, 1]),
        "objects_of_a": Ratio(found[:, 0], there[:, 0]),
        "floor_of_b": mean_of(floor[:, 1]),
        "light_of_b": mean_of(light_of_b),
        "objects_of_b": Ratio(found[:, 1], there[:, 1]),
        "floor_of_a": mean_of(floor[:, 0]),
        "all_of_a": mean_of(whole[:, 0]),
        "joint_reversed": mean_of(whole[:, 1] & floor[:, 0]),
    }


def _found(seen: Inspection, scene: Scene) -> int:
    return len(match_objects(seen.objects, scene.objects))


class _Table:
    """Rows with intervals over the same pairs."""

    def __init__(self, pairs: Sequence[Pair], seed: int) -> None:
        self.rows: list[Row] = []
        self._pairs = pairs
        self._bootstrap = Bootstrap(len(pairs), seed)

    def add(self, labels: dict[str, Label], seen: Sequence[Inspection]) -> None:
        self._add(labels, pair_ratios(seen, self._pairs))

    def add_shuffled(self, labels: dict[str, Label], seen: Sequence[Inspection]) -> None:
        """Add pictures measured against other pairs: half a circle further, past the partners."""
        middle = len(self._pairs) // 2
        self._add(labels, pair_ratios(seen, [*self._pairs[middle:], *self._pairs[:middle]]))

    def _add(self, labels: dict[str, Label], ratios: dict[str, Ratio]) -> None:
        self.rows.append(Row(labels, len(self._pairs), self._bootstrap.figures(ratios)))


def _claim(
    order: Order,
    views: dict[Split, list[Inspection]],
    ends: Sequence[list[Inspection]],
    pairs: Sequence[Pair],
    seed: int,
) -> tuple[Split, Claim]:
    """The best split, and whether it succeeds where the better end does not.

    The split is selected on one half of the pairs and measured on the other half, since the best of
    many figures is partly luck. The end is the better one on the measured pairs, which favours no
    split.
    """
    success = {split: pair_ratios(seen, pairs)["joint"].over for split, seen in views.items()}
    of_ends = [pair_ratios(seen, pairs)["joint"].over for seen in ends]
    best = max(success, key=lambda split: success[split][::2].sum())
    end = max(of_ends, key=lambda values: values[1::2].sum())
    measured, reference = mean_of(success[best][1::2]), mean_of(end[1::2])
    statement, paper = _CLAIMS[order]
    return best, Claim(
        statement,
        paper,
        f"success of the best split, {_words(best)}, chosen on the other half of the pairs, less "
        "that of the better of A alone and B alone",
        Bootstrap(len(measured.over), seed).difference(measured, reference),
    )


def _check_splits(splits: Sequence[Split], held: int, room: int) -> None:
    for split in splits:
        if max(split) > held or not 0 < sum(split) <= room:
            raise ConfigError(
                f"splits: {_words(split)} embeddings cannot be kept; an image has {held}, and "
                f"both together keep 1 to {room}"
            )


def _words(split: Split) -> str:
    return f"{split[0]} + {split[1]}"
