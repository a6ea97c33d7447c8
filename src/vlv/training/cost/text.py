"""A bill as text and as JSON."""

from dataclasses import asdict
from typing import Any

from vlv.training.cost.bill import WRITING, Bill, Times
from vlv.training.cost.flops import PartFlops
from vlv.training.memory import GIB

_TB, _GB = 1e12, 1e9


def bill_text(bill: Bill) -> str:
    """What `vlv cost` prints."""
    return "\n\n".join(
        "\n".join(part) for part in (_run(bill), _flops(bill), _sums(bill), _basis(bill))
    )


def _run(bill: Bill) -> list[str]:
    work, config = bill.work, bill.work.config
    together = (
        f"{config.train_batch_size} x {config.gradient_accumulation_steps} x {work.processes}"
    )
    return [
        f"{bill.stage}: {config.max_train_steps:,} steps of {work.samples_per_step:,} samples "
        f"({together}: batch x micro-batches x processes), {work.samples:,} in all"
    ]


def _flops(bill: Bill) -> list[str]:
    """The table of operations by part."""
    parts = bill.work.sample
    whole = PartFlops(
        sum(part.forward for part in parts.values()),
        sum(part.backward for part in parts.values()),
        sum(part.again for part in parts.values()),
    )
    rows = [["GFLOP of a sample", "forward", "backward", "again", "share"]]
    for name, part in {**parts, "together": whole}.items():
        counts = [f"{count / 1e9:,.1f}" for count in (part.forward, part.backward, part.again)]
        rows.append([name, *counts, f"{part.total / whole.total:.0%}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _sums(bill: Bill) -> list[str]:
    work, disk, times = bill.work, bill.disk, bill.times
    lines = [
        f"operations  {work.training_flops + work.validation_flops:.3g}: training "
        f"{work.training_flops:.3g}, {work.validations:,} validations {work.validation_flops:.3g}",
        f"memory      {bill.memory}",
    ]
    if bill.gpu is not None:
        fit = bill.misfit or f"fits: needs {bill.memory.total / GIB:.1f} GiB of {bill.gpu.memory:g}"
        lines.append(f"GPU         {work.processes} x {bill.gpu.name}: {fit}")
    lines.append(
        f"disk        {_size(disk.peak)}: {disk.kept} checkpoints of {_size(disk.checkpoint)} and "
        f"a model of {_size(disk.final)}; {_size(disk.written)} written over the run"
    )
    if times is not None:
        lines.append(
            f"time        {_duration(times.total)}: steps {_duration(times.training)}, validation "
            f"{_duration(times.validation)}, saving {_duration(times.saving)}"
        )
        if bill.gpu is not None:
            lines.append(f"GPU hours   {bill.gpu_hours:,.1f}")
        if bill.usd is not None:
            lines.append(f"money       {bill.usd:,.2f} USD at {bill.price:g} an hour of one GPU")
    return lines


def _basis(bill: Bill) -> list[str]:
    """What was measured and what is assumed."""
    lines = [f"measured    {line}" for line in _measured(bill)]
    return [*lines, *(f"assumed     {line}" for line in assumptions(bill))]


def _measured(bill: Bill) -> list[str]:
    pace = bill.pace
    if pace is None:
        return []
    clock, cpu = pace.clock, pace.cpu
    found = [
        f"{pace.steps} steps on {pace.device}: {clock.step:.4g} s a step ({cpu.step:.4g} s of CPU "
        f"time), {clock.validation:.3g} s a validation, {clock.saving:.3g} s a checkpoint, "
        f"{clock.export:.3g} s for the export"
    ]
    if bill.gpu is not None:
        found.append(f"{bill.mfu:.1%} of the GPU's peak in these steps")
    return found


def assumptions(bill: Bill) -> list[str]:
    """What of the bill is neither counted nor measured."""
    made = list(bill.assumed)
    if bill.pace is None and bill.gpu is not None:
        precision = "float32" if bill.precision == "no" else "bfloat16"
        peak = bill.gpu.peak(bill.precision) / _TB
        made += [
            f"{bill.mfu:.0%} of {peak:g} TFLOP/s, the GPU's peak in {precision} (--mfu)",
            f"checkpoints are written at {WRITING / _GB:g} GB/s; loading of data and the exchange "
            "between GPUs take no time",
        ]
    elif bill.pace is not None and bill.work.processes > 1:
        made.append("each of the processes is as fast as the one that was measured")
    made.append(
        "activations are an estimate; the start of the run and its data are not in the bill"
    )
    return made


def bill_json(bill: Bill) -> dict[str, Any]:
    """What `vlv cost --json` prints: bytes, seconds, operations and USD."""
    work = bill.work
    return {
        "stage": bill.stage,
        "steps": work.config.max_train_steps,
        "samples": work.samples,
        "processes": work.processes,
        "caption_tokens": work.caption_tokens,
        "sample_flops": {name: asdict(part) for name, part in work.sample.items()},
        "flops": {"training": work.training_flops, "validation": work.validation_flops},
        "memory": {**asdict(bill.memory), "total": bill.memory.total},
        "disk": {**asdict(bill.disk), "peak": bill.disk.peak},
        "gpu": None if bill.gpu is None else bill.gpu.model_dump(),
        "fits": None if bill.gpu is None else bill.misfit is None,
        "misfit": bill.misfit,
        "mfu": bill.mfu if bill.gpu is not None else None,
        "seconds": None if bill.times is None else _times(bill.times),
        "gpu_hours": bill.gpu_hours if bill.gpu is not None else None,
        "price": bill.price,
        "usd": bill.usd,
        "measured": None if bill.pace is None else asdict(bill.pace),
        "cpu_seconds": None if bill.pace is None else _times(bill.pace.cpu.run(work)),
        "assumed": assumptions(bill),
    }


def _times(times: Times) -> dict[str, float]:
    return {**asdict(times), "total": times.total}


def _size(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e6:.3g} MB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
