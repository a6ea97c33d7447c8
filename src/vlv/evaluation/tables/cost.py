"""`vlv eval cost`: what training costs (the counterpart of the paper's cost of under 1,000 USD).

The stages of the mini are priced by the records of their runs in the model's provenance. Two
recipes of full size are priced on boxes without weights, at each size of the encoder's picture: the
paper's, and that of configs/paper, which differs in stage 2. Each is described by the config that
is priced. Operations are counted; hours and money follow from stated assumptions. Nothing is drawn
and no scene is needed, so the fields of `TableConfig` on scenes and drawing have no effect. The
table takes about a minute.
"""

import math
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field

from vlv.checkpoints.opening import load_model
from vlv.evaluation.bench import Bench, TableConfig
from vlv.evaluation.metrics.flops import sample_flops
from vlv.evaluation.metrics.statistics import Figure
from vlv.evaluation.results import Claim, Progress, Result, Row, silent
from vlv.evaluation.tables.recipe_cost import BOTH, HERE, PAPER, Cost, recipe_costs
from vlv.models.precision import computes_bfloat16
from vlv.training.cost.bill import UTILISATION
from vlv.training.cost.gpus import gpu_named

# The money and time that the paper states, and 8 cards for 4 days.
LIMIT = 1000.0
STAGE1_HOURS = 768.0
# Peak FLOP/s: an H200 in bfloat16, an RTX 6000 Ada in float32.
H200_PEAK, ADA_PEAK = gpu_named("h200").peak("bf16"), gpu_named("rtx-6000-ada").peak("no")
_CARDS = {"h200": "H200 in bfloat16", "ada": "RTX 6000 Ada in float32"}
_SIDE = 1024


class CostConfig(TableConfig):
    """encoder_image_sizes: at which the recipes are counted; the authors' code gives
    Florence-2 pictures of 384 px enlarged to 768 px. Assumptions: utilisation is the share of a
    card's peak that training reaches; the prices in USD are those of an hour of a core, of an H200
    (also for a mini run on a GPU) and of an RTX 6000 Ada.
    """

    encoder_image_sizes: tuple[Annotated[int, Field(gt=0)], ...] = Field((384, 768), min_length=1)
    utilisation: float = Field(UTILISATION, gt=0, le=1)
    price_per_core_hour: float = Field(0.04, ge=0)
    price_per_h200_hour: float = Field(3.0, ge=0)
    price_per_ada_hour: float = Field(0.8, ge=0)


def evaluate(config: CostConfig, progress: Progress = silent) -> Result:
    """Count the operations of every stage, and what they cost.

    Raises:
        CheckpointError, ConfigError: as `Bench`; or the record of a run is of another version.
    """
    bench = Bench(config, progress)
    rate = matrix_product_rate()
    mini = mini_rows(bench, config, rate)
    costs = recipe_costs(dict.fromkeys(config.encoder_image_sizes), progress)
    rows = [_recipe_row(*key, cost, config) for key, cost in costs.items()]
    paper: dict[int, dict[str, Cost]] = {}
    for (name, size, part), cost in costs.items():
        if name == PAPER[0].name:
            paper.setdefault(size, {})[part] = cost
    type_name = str(_product_type()).removeprefix("torch.")
    notes = [
        "Operations: of matrix products, convolutions and attention, a multiplication with its "
        "addition as two, activations computed once. Checkpointing computes them twice, a third "
        "more of what trains.",
        f"Product share: operations a second and core against a {type_name} matrix product on one "
        f"core of this machine now, {rate / 1e9:.1f} GFLOP/s. The training may have run on another "
        "one, so this is no share of its peak; in bfloat16 on another CPU it may pass 100%.",
        f"Assumptions: {config.price_per_core_hour:g} USD a core hour, "
        f"{config.price_per_h200_hour:g} an H200 hour, {config.price_per_ada_hour:g} an RTX 6000 "
        f"Ada hour; {config.utilisation * 100:g}% of {H200_PEAK / 1e12:g} TFLOP/s (H200, bfloat16) "
        f"and of {ADA_PEAK / 1e12:g} TFLOP/s (RTX 6000 Ada, float32). A mini run that had "
        "GPUs had one a process, at the H200's price.",
        *map(str, (*PAPER, *HERE)),
        "The pretrained components and the teacher captions are not in the recipes' sums, as they "
        "are not in the paper's; those of the mini are in its sums.",
        "These figures are counts, not samples: the ends of an interval are the value itself.",
    ]
    if not mini:
        notes.append(f"{config.model} has no records of runs, so it has no rows.")
    return Result(
        name="cost",
        title="What training costs",
        paper="its claim of cost",
        rows=[*mini, *rows],
        claims=claims(paper, config),
        notes=notes,
        provenance={
            **bench.provenance("cost"),
            "recipes": [
                {
                    "recipe": recipe.name,
                    "stage": recipe.stage,
                    "changes": dict(recipe.changes),
                    "caption_tokens": recipe.caption_tokens,
                    "config": recipe.config.model_dump(mode="json"),
                }
                for recipe in (*PAPER, *HERE)
            ],
            "matrix_product_flops_per_second": rate,
            "matrix_product_type": type_name,
        },
    )


def _recipe_row(name: str, size: int, part: str, cost: Cost, config: CostConfig) -> Row:
    figures = _operations(cost)
    for card in _CARDS:
        hours, dollars = _hours(cost, card, config), _dollars(cost, card, config)
        figures |= {f"{card}_hours": Figure(hours), f"{card}_usd": Figure(dollars)}
    return Row({"recipe": name, "stage": part, "encoder px": size}, cost.samples, figures)


def claims(paper: Mapping[int, Mapping[str, Cost]], config: CostConfig) -> list[Claim]:
    """The paper's claims of cost, by the counts at each size (px)."""
    made = []
    for card, name in _CARDS.items():
        for size, parts in paper.items():
            at = f"{name}, {size} px"
            cost = parts[BOTH]
            hours, dollars = _hours(cost, card, config), _dollars(cost, card, config)
            made += [
                Claim(
                    f"Training costs under 1,000 USD ({at}).",
                    "under 1,000 USD",
                    "1,000 minus USD of both stages",
                    _certain(LIMIT - dollars),
                ),
                Claim(
                    f"Training takes under 1,000 GPU hours ({at}).",
                    "under 1,000 GPU hours",
                    "1,000 minus hours of both stages",
                    _certain(LIMIT - hours),
                ),
            ]
    for size, parts in paper.items():
        needed = parts["stage1"].flops / STAGE1_HOURS / 3600
        made.append(
            Claim(
                f"8 RTX 6000 Ada train stage 1 in about 4 days in float32 ({size} px).",
                "stage 1: 8 cards, about 4 days, so 768 GPU hours",
                f"peak of {ADA_PEAK / 1e12:g} TFLOP/s minus what each card would have to reach",
                _certain((ADA_PEAK - needed) / 1e12),
            )
        )
    return made


def mini_rows(bench: Bench, config: CostConfig, rate: float) -> list[Row]:
    """A row for each run behind the model, and sums; none if its provenance has no runs."""
    runs = list(_runs(bench.model.provenance.get("stages", {})))
    model = load_model(config.model, device="meta")
    inspector = bench.inspector.to("meta")
    rows = []
    for label, stage, record in bench.progress(
        runs, total=len(runs), unit="run", description="mini"
    ):
        flops = record["samples_seen"] * sample_flops(stage, record, model, inspector)
        cost = Cost(record["samples_seen"], float(flops))
        rows.append(_mini_row(label, cost, record, config, rate))
    own = [row for row in rows if str(row.labels["stage"]).startswith(("stage1", "stage2"))]
    sums = {BOTH: own, "all": rows} if len(own) > 1 else {"all": rows}
    return rows + [_sum(label, parts) for label, parts in sums.items() if parts]


def _runs(stages: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Label, stage and record of every run, after the runs that it continued."""
    for stage, last in stages.items():
        chain = [last]
        while "before" in chain[-1]:
            chain.append(chain[-1]["before"])
        for number, record in enumerate(reversed(chain), start=1):
            yield (stage if len(chain) == 1 else f"{stage}, run {number}"), stage, record


def _mini_row(
    label: str, cost: Cost, record: Mapping[str, Any], config: CostConfig, rate: float
) -> Row:
    seconds = record["seconds"]
    on_cpu = _on_cpu(record)
    units = record["processes"] * (record["threads"] if on_cpu else 1)
    price = config.price_per_core_hour if on_cpu else config.price_per_h200_hour
    figures = _operations(cost) | {
        "hours": Figure(seconds / 3600),
        "gflop_per_second": Figure(cost.flops / seconds / 1e9),
        "product_share": Figure(cost.flops / seconds / units / rate if on_cpu else math.nan),
        "usd": Figure(seconds / 3600 * units * price),
    }
    return Row({"recipe": "mini", "stage": label}, cost.samples, figures)


def _on_cpu(record: Mapping[str, Any]) -> bool:
    # Older records do not name the device.
    guess = "cpu" if "+cpu" in record["torch"] else "cuda"
    return bool(record.get("device", {"type": guess})["type"] == "cpu")


def _sum(label: str, rows: list[Row]) -> Row:
    names = ("total_pflop", "hours", "usd")
    figures = {name: Figure(sum(row.figures[name].value for row in rows)) for name in names}
    return Row({"recipe": "mini", "stage": label}, sum(row.count for row in rows), figures)


def _operations(cost: Cost) -> dict[str, Figure]:
    return {
        "sample_gflop": Figure(cost.flops / cost.samples / 1e9),
        "total_pflop": Figure(cost.flops / 1e15),
    }


def _hours(cost: Cost, card: str, config: CostConfig) -> float:
    peak = {"h200": H200_PEAK, "ada": ADA_PEAK}[card]
    return cost.hours(peak, config.utilisation)


def _dollars(cost: Cost, card: str, config: CostConfig) -> float:
    prices = {"h200": config.price_per_h200_hour, "ada": config.price_per_ada_hour}
    return _hours(cost, card, config) * prices[card]


def matrix_product_rate() -> float:
    """FLOP/s of a large matrix product on one core now, the best of several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    a = torch.ones(_SIDE, _SIDE, dtype=_product_type())
    times = []
    for _ in range(8):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    return 2 * _SIDE**3 / min(times)


def _product_type() -> torch.dtype:
    return torch.bfloat16 if computes_bfloat16(torch.device("cpu")) else torch.float32


def _certain(value: float) -> Figure:
    """A count has no interval; its sign decides."""
    return Figure(value, value, value)
