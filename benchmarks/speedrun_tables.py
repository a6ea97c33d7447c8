"""The table and the plot of docs/speedrun.md."""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import ttest_ind
from serve_tables import table

from vlv.evaluation.metrics.columns import Column
from vlv.evaluation.metrics.statistics import Figure
from vlv.evaluation.report.charts import Panel, Series, line_chart

Run = Mapping[str, Any]
# With fewer seeds there is no interval.
_ENOUGH = 2
# In the plot: seeds of a row, and rows beside the first one, all of which look different.
_SEEDS_SHOWN, _ROWS_SHOWN = 3, 6


def markdown(result: Mapping[str, Any]) -> str:
    """A line for each row, and what is missing."""
    first = next(iter(result["rows"]))
    baseline = costs(result, first)
    lines = [_line(result, name, baseline) for name in result["rows"]]
    heads = ["row", "changes", "seeds", "samples", "TFLOP", "CPU s", "row 1 / this (95%)", "F1"]
    return f"{table(heads, lines)}\n\n{_missing(result)}"


def reached(run: Run, targets: Mapping[str, float]) -> Mapping[str, float] | None:
    """The first point of a run that meets both targets."""
    for point in run["points"]:
        if point["loss"] <= targets["loss"] and point.get("f1", 0.0) >= targets["f1"]:
            found: Mapping[str, float] = point
            return found
    return None


def costs(result: Mapping[str, Any], row: str) -> list[Mapping[str, float]]:
    """The points at which the runs of a row met the targets."""
    points = [reached(run, result["targets"]) for run in runs_of(result, row)]
    return [point for point in points if point is not None]


def runs_of(result: Mapping[str, Any], row: str) -> list[Run]:
    return [run for run in result["runs"] if run["row"] == row]


def ratio(baseline: Sequence[float], these: Sequence[float]) -> Figure:
    """How many times as much the first row costs: the ratio of geometric means, with the interval
    of Welch's t between the seeds of both.
    """
    a, b = np.log(baseline), np.log(these)
    value = math.exp(a.mean() - b.mean())
    if min(len(a), len(b)) < _ENOUGH:
        return Figure(value, math.nan, math.nan)
    with warnings.catch_warnings():
        # Seeds that met the targets at the same step have no spread, which scipy warns of.
        warnings.simplefilter("ignore", RuntimeWarning)
        interval = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    return Figure(value, math.exp(interval.low), math.exp(interval.high))


def _line(result: Mapping[str, Any], name: str, baseline: list[Mapping[str, float]]) -> list[str]:
    row, runs, met = result["rows"][name], runs_of(result, name), costs(result, name)
    after = f"`{row['after']}` with " if row["after"] else ""
    changes = after + ", ".join(
        f"`{key}: {_short(value)}`" for key, value in row["changes"].items()
    )
    line = [f"**{name}**: {row['title']}", changes, f"{len(met)} of {len(runs)}"]
    if not runs:
        return [*line[:2], "not run yet", *[""] * 5]
    if not met:
        last = [run["points"][-1] for run in runs]
        spent = f"not reached in {_range([one['flops'] / 1e12 for one in last], '.1f')}"
        least = min(point["loss"] for run in runs for point in run["points"])
        return [*line, "", spent, "", f"loss {least:.4f}", ""]
    # The mean of the seeds that met the targets says too little where another one did not.
    times = "1" if met is baseline or not row["after"] else ""
    if not times and baseline and len(met) == len(runs):
        figure = ratio([one["flops"] for one in baseline], [one["flops"] for one in met])
        times = f"**{figure.value:.2f}**"
        if not math.isnan(figure.low):
            times += f" ({figure.low:.2f} to {figure.high:.2f})"
    return [
        *line,
        _range([one["samples"] for one in met], ",.0f"),
        _range([one["flops"] / 1e12 for one in met], ".1f"),
        _range([one["cpu_seconds"] for one in met], ".0f"),
        times,
        _range([one["f1"] for one in met], ".2f"),
    ]


def _range(values: Sequence[float], digits: str) -> str:
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:{digits}}"
    return f"{mean:{digits}} ({min(values):{digits}} to {max(values):{digits}})"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def _missing(result: Mapping[str, Any]) -> str:
    counts = {name: len(runs_of(result, name)) for name in result["rows"]}
    few = [f"{name} ({count})" for name, count in counts.items() if count < 3]
    targets = result["targets"]
    said = f"- targets: held-out loss {targets['loss']:g}, F1 {targets['f1']:g}"
    said += "".join(f"\n- set from {_course(run)}" for run in result["target_runs"])
    if few:
        said += f"\n- fewer than three seeds, so no claim yet: {', '.join(few)}"
    return said


def _course(run: Run) -> str:
    """What a run that targets are set from had at three quarters of its steps, and at its end."""
    last = run["points"][-1]
    late = next(point for point in run["points"] if point["step"] >= 0.75 * last["step"])
    return (
        f"seed {run['seed']}: loss {late['loss']:.4f} after {late['step']} steps, "
        f"{last['loss']:.4f} and F1 {last['f1']:.2f} after {last['step']}"
    )


def plot(result: Mapping[str, Any]) -> str:
    """Held-out loss against counted operations: lines of the first row and of the cheapest ones,
    the mean over their seeds with the range between them.
    """
    series = [Series(name, _curve(runs_of(result, name))) for name in _shown(result)]
    target = Figure(result["targets"]["loss"], math.nan, math.nan)
    column = Column("held-out denoising loss", better=-1)
    return line_chart([Panel(column, series, [Series("target", [(0.0, target)])])], "TFLOP")


def _shown(result: Mapping[str, Any]) -> list[str]:
    """The first row, and the cheapest ones whose seeds all met the targets."""
    first, *others = result["rows"]
    met = {name: costs(result, name) for name in others}
    whole = [
        name for name in others if len(met[name]) == len(runs_of(result, name)) >= _SEEDS_SHOWN
    ]
    whole.sort(key=lambda name: sum(point["flops"] for point in met[name]) / len(met[name]))
    return [first, *(name for name in others if name in whole[:_ROWS_SHOWN])]


def _curve(runs: Sequence[Run]) -> list[tuple[float, Figure]]:
    """At the steps that all runs of a row were measured at."""
    by_step = [{point["step"]: point for point in run["points"]} for run in runs]
    shared = sorted(set.intersection(*(set(points) for points in by_step)))
    curve = []
    for step in shared:
        losses = [points[step]["loss"] for points in by_step]
        flops = sum(points[step]["flops"] for points in by_step) / len(by_step)
        mean = sum(losses) / len(losses)
        curve.append((flops / 1e12, Figure(mean, min(losses), max(losses))))
    return curve
