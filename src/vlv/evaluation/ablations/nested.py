"""`vlv eval nested`: pictures and captions from the first N embeddings.

A model is trained further in several ways for equally many steps, and each result is measured with
its first embeddings only:

- nested: tails are dropped in training, so that the first embeddings do without the others;
- half nested: the same for half of the samples; the others keep all embeddings;
- random drop: as many embeddings are dropped, but any of them;
- no drop: all embeddings are always there;
- trained for this number: only the first N are ever there, in a run for each N.

The model itself, which is not trained further, is measured too.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from vlv.checkpoints.hub import resolve
from vlv.evaluation.ablations.measurements import (
    Measurement,
    measure_prefix,
    read_measurement,
    write_measurement,
)
from vlv.evaluation.ablations.runs import ModelComponents, Run, finish
from vlv.evaluation.ablations.shared import AblationConfig, base_fields
from vlv.evaluation.bench import Bench, open_world_model
from vlv.evaluation.metrics.statistics import Figure, SeedBootstrap
from vlv.evaluation.results import (
    Claim,
    Label,
    Progress,
    Result,
    Row,
    environment,
    model_hash,
    silent,
)
from vlv.models.vlv import check_num_queries

GIVEN = "not trained further"
ALONE = "trained for this number"
NESTED, HALF, RANDOM, WHOLE = "nested", "half nested", "random drop", "no drop"
VARIANTS: dict[str, dict[str, Any]] = {
    NESTED: {"query_drop": "tail", "query_drop_lengths": "powers"},
    HALF: {
        "query_drop": "tail",
        "query_drop_lengths": "powers",
        "query_drop_probability": 0.5,
    },
    RANDOM: {"query_drop": "random", "query_drop_lengths": "powers"},
    WHOLE: {},
}
Variant = Literal["nested", "half nested", "random drop", "no drop"]
_PAPER = "no counterpart; nested dropout as in ViLex (arXiv 2412.06774) and FlexTok (2502.13967)"


class NestedConfig(AblationConfig):
    """`model` is trained further by stage 2, with the fields `stage2`.

    queries: numbers of first embeddings to measure, in rising order. variants: those to compare
    with the model itself; with none, and no `trained_for`, only the model is measured.
    trained_for: numbers that have a run of their own. All runs have all `seeds`.
    """

    queries: list[int] = Field(default=[1, 2, 4, 8, 16, 32, 77], min_length=2)
    variants: list[Variant] = ["nested", "half nested", "random drop", "no drop"]
    trained_for: list[int] = []


@dataclass(frozen=True)
class Point:
    """A model at a number of first embeddings; run None is the model itself."""

    run: Run | None
    queries: int


def evaluate(config: NestedConfig, progress: Progress = silent) -> Result:
    """Train what is missing, and compare.

    Raises:
        TrainingError: runs failed.
        ConfigError: the model has fewer queries than are to be measured.
    """
    model = open_world_model(config.model, config.device)
    check_num_queries(max(config.queries + config.trained_for), model.encoder.settings.num_queries)
    points = plan(config)
    missing = _missing(config, points)
    finish(
        {point.run.name: point.run for point in missing if point.run is not None}.values(),
        config.folder,
        config.world,
        workers=config.workers,
        num_threads=config.run_threads,
        progress=progress,
    )
    _measure_all(config, missing, progress)
    table = _Table(config, points)
    return Result(
        name="nested",
        title="Pictures and captions from the first embeddings",
        paper=_PAPER,
        rows=[table.row(*key) for key in points],
        claims=_claims(config, table),
        notes=_notes(config),
        provenance=table.provenance(),
    )


def plan(config: NestedConfig) -> dict[tuple[str, int], list[Point]]:
    """What is measured, by variant and number of embeddings; one point a seed."""
    points = {(GIVEN, number): [Point(None, number)] for number in config.queries}
    for variant in config.variants:
        runs = [further_run(config, seed, **VARIANTS[variant]) for seed in range(config.seeds)]
        points |= {
            (variant, number): [Point(run, number) for run in runs] for number in config.queries
        }
    for number in config.trained_for:
        only = {"query_drop": "tail", "query_drop_lengths": [number]}
        points[ALONE, number] = [
            Point(further_run(config, seed, **only), number) for seed in range(config.seeds)
        ]
    return points


def further_run(config: NestedConfig, seed: int, **changes: Any) -> Run:
    """Stage 2 on from the model, its caption decoder included."""
    frozen = config.frozen()
    folder, components = frozen.folder, ("encoder", *frozen.components)
    fields = {**base_fields("stage2"), **config.stage2, "seed": seed, **changes}
    inputs = {
        "stage1": ModelComponents(folder, components),
        "caption_decoder": ModelComponents(folder, ("caption_decoder",)),
    }
    return Run("stage2", fields, None, inputs)


def _file(config: NestedConfig, point: Point) -> Path:
    """Where the measurement of a point is kept."""
    if point.run is None:
        name = f"given-{model_hash(resolve(config.model))[:10]}"
    else:
        name = point.run.name
    whole = config.measurement_name(name, "pictures"), f"beams{config.num_beams}"
    return config.measurements / f"{'-'.join(whole)}-first{point.queries}.json"


def _missing(config: NestedConfig, points: dict[tuple[str, int], list[Point]]) -> list[Point]:
    all_points = (point for group in points.values() for point in group)
    return [point for point in all_points if not _file(config, point).is_file()]


def _measure_all(config: NestedConfig, points: Sequence[Point], progress: Progress) -> None:
    """Measure finished runs, as many at a time as are trained; each opens its model once."""
    by_run: dict[str, list[Point]] = {}
    for point in points:
        by_run.setdefault(GIVEN if point.run is None else point.run.name, []).append(point)
    if not by_run:
        return
    workers = min(config.workers, len(by_run))
    if workers == 1:
        groups = progress(by_run.values(), total=len(by_run), unit="model", description="measuring")
        for some in groups:
            _measure(config, some)
        return
    # A process with threads of torch, or with a GPU, cannot be forked.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_measure, config, some) for some in by_run.values()]
        done = as_completed(jobs)
        for job in progress(done, total=len(jobs), unit="model", description="measuring"):
            job.result()


def _measure(config: NestedConfig, points: Sequence[Point]) -> None:
    """Measure points of one run."""
    run = points[0].run
    model = config.model if run is None else str(run.output(config.folder))
    record = {} if run is None else run.record(config.folder)
    changes = {"model": model, "num_threads": config.run_threads}
    bench = Bench(config.model_copy(update=changes))
    for point in points:
        measured = measure_prefix(bench, point.queries, record, config.guidance_scale)
        write_measurement(measured, _file(config, point))


class _Table:
    """All measurements, by variant and number of embeddings."""

    def __init__(self, config: NestedConfig, points: dict[tuple[str, int], list[Point]]) -> None:
        self._config = config
        self._points = points
        self._measured: dict[tuple[str, int], list[Measurement]] = {
            key: [read_measurement(_file(config, point)) for point in group]
            for key, group in points.items()
        }
        self._bootstrap = SeedBootstrap(config.count, config.seed)

    def row(self, variant: str, number: int) -> Row:
        measured = self._measured[variant, number]
        figures = {
            name: self._bootstrap.figure([one.ratios[name] for one in measured])
            for name in measured[0].ratios
        }
        labels: dict[str, Label] = {"variant": variant, "queries": number, "seeds": len(measured)}
        return Row(labels, self._config.count, figures)

    def difference(self, figure: str, a: tuple[str, int], b: tuple[str, int]) -> Figure:
        """A figure of one variant and number minus that of another."""
        first, second = ([one.ratios[figure] for one in self._measured[key]] for key in (a, b))
        return self._bootstrap.difference(first, second)

    def provenance(self) -> dict[str, Any]:
        """How the result was made, with the records of the runs by name."""
        return {
            "evaluation": "nested",
            "config": self._config.model_dump(mode="json"),
            "environment": environment(),
            "model_sha256": model_hash(resolve(self._config.model)),
            "runs": {
                point.run.name: dict(measured.run)
                for key, group in self._points.items()
                for point, measured in zip(group, self._measured[key], strict=True)
                if point.run is not None
            },
        }


def _notes(config: NestedConfig) -> list[str]:
    further = "All variants were trained further from the same model, for equally many steps."
    notes = [further] if config.variants or config.trained_for else []
    return [*notes, "Centre errors are of the objects that were found."]


def _claims(config: NestedConfig, table: _Table) -> list[Claim]:
    """Nested training against the others, at each number that both have."""
    others = [GIVEN, *(variant for variant in config.variants if variant not in _NESTED)]
    pairs = [(other, number) for number in config.queries for other in others]
    pairs += [(ALONE, number) for number in config.trained_for if number in config.queries]
    return [
        Claim(
            statement=f"{_first(number)} better after {_NESTED[variant]} {_NAMES[other]}.",
            paper=_PAPER,
            measure="F1 of objects, difference",
            difference=table.difference("f1", (variant, number), (other, number)),
        )
        for variant in _NESTED
        if variant in config.variants
        for other, number in pairs
    ]


_NESTED = {NESTED: "nested training", HALF: "nested training on half of the samples"}
_NAMES = {
    GIVEN: "than in the model itself",
    RANDOM: "than after as many steps with random drop",
    WHOLE: "than after as many steps without drop",
    ALONE: "than after as many steps with only so many",
}


def _first(number: int) -> str:
    return "The first embedding draws" if number == 1 else f"The first {number} embeddings draw"
