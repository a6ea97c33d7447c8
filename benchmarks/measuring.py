"""What the comparisons share: clocks on modules, the processor's limits, medians, and the table.

Knows modules and files of results; knows nothing of captions or pictures.
"""

import argparse
import json
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PLAIN, OURS, WHOLE = "plain", "ours", "**whole**"
Seconds = dict[str, float]  # by stage, for one image


@dataclass
class Clock:
    """Seconds, and floating point operations inside `counting`, of each call of watched modules."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    work: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    _counter: FlopCounterMode | None = None

    def watch(self, stage: str, module: nn.Module, first: str | None = None) -> None:
        """Count every call of `module` to `stage`, or its first call in a run to `first`.

        The modules of a clock do not nest.
        """
        begun: list[tuple[float, int]] = []

        def enter(*_: Any) -> None:
            begun.append((time.perf_counter(), self._counted()))

        def leave(*_: Any) -> None:
            start, counted = begun.pop()
            where = first if first is not None and first not in self.seconds else stage
            self.seconds[where].append(time.perf_counter() - start)
            self.work[where].append(self._counted() - counted)

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)

    def reset(self) -> None:
        self.seconds.clear()
        self.work.clear()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Operations of matrix products and convolutions; counting slows what is timed."""
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        with FlopCounterMode(display=False, custom_mapping={fused: _fused_attention}) as counter:
            self._counter = counter
            yield
        self._counter = None

    def _counted(self) -> int:
        return 0 if self._counter is None else int(self._counter.get_total_flops())


def _fused_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


@dataclass
class Limits:
    """What a device can do at most: measured matrix products and reading of memory."""

    matrix_rate: dict[str, float]  # FLOP/s by dtype
    read_rate: float  # bytes/s

    @classmethod
    def measure(cls, *, quick: bool = False, device: str = "cpu") -> "Limits":
        """The best of several square products and of several sums over memory; quick: of sizes too
        small to be trusted.
        """
        side, megabytes = (512, 32) if quick else (2048, 512)
        rates = {}
        for name, dtype in DTYPES.items():
            a, b = (torch.randn(side, side).to(device, dtype) for _ in range(2))
            rates[name] = 2 * side**3 / _best(lambda a=a, b=b: _done(a @ b))
        memory = torch.ones(megabytes * 2**20 // 4, device=device)
        return cls(rates, memory.nbytes / _best(lambda: _done(memory.sum())))

    def facts(self, threads: int) -> str:
        rates = [f"{rate / 1e9:.0f} GFLOP/s in {name}" for name, rate in self.matrix_rate.items()]
        read = f"{self.read_rate / 1e9:.0f} GB/s read from memory"
        return f"{', '.join([*rates, read])}, with {threads} threads"

    def seconds(self, work: float, dtype: str, read: float = 0) -> float:
        """The least time for `work` FLOP and `read` bytes."""
        return max(work / self.matrix_rate[dtype], read / self.read_rate)


def _done(result: Tensor) -> None:
    """Wait for a result that an accelerator may still be computing."""
    if result.is_cuda:
        torch.cuda.synchronize(result.device)


def _best(call: Callable[[], object], times: int = 6) -> float:
    measured = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        measured.append(time.perf_counter() - start)
    return min(measured)


class Worker(Protocol):
    """One of the two sides of a comparison."""

    def preprocess(self, files: Sequence[Path]) -> object: ...

    def make(self, files: Sequence[Path]) -> Sequence[Any]:
        """All the work on one batch: a result for each file."""
        ...


class Comparison:
    """The plain side and ours on one model, in one precision, timed stage by stage.

    Stages are the clock's. `repeats` says how often a stage occurs in the work on one batch, where
    it is not once, and its time is that of one occurrence; `reads` is the bytes of weights that one
    occurrence has to read whatever the batch; `dtypes` is for stages of the plain side that are not
    in `dtype`.
    """

    def __init__(
        self,
        plain: Worker,
        ours: Worker,
        clock: Clock,
        dtype: str,
        *,
        repeats: Mapping[str, int] | None = None,
        reads: Mapping[str, int] | None = None,
        plain_dtypes: Mapping[str, str] | None = None,
    ) -> None:
        self.workers = {PLAIN: plain, OURS: ours}
        self.clock, self.dtype = clock, dtype
        self.repeats, self.reads = dict(repeats or {}), dict(reads or {})
        self.plain_dtypes = dict(plain_dtypes or {})
        self.results: dict[str, Sequence[Any]] = {}

    def count(self, files: Sequence[Path]) -> dict[str, dict[str, float]]:
        """FLOP of each side's stages for one image; every kernel has then run once."""
        work = {}
        for side, worker in self.workers.items():
            self.clock.reset()
            with self.clock.counting():
                self.results[side] = worker.make(files)
            work[side] = self._by_stage(self.clock.work, len(files))
        return work

    def fastest(self, files: Sequence[Path], batches: Sequence[int]) -> int:
        """The one of `batches` at which ours takes least for one image."""
        return min(batches, key=lambda batch: self.run(OURS, files[:batch])[WHOLE])

    def rows(
        self,
        files: Sequence[Path],
        batches: Sequence[int],
        repetitions: int,
        work: Mapping[str, Mapping[str, float]],
        limits: Limits,
    ) -> list[dict[str, Any]]:
        """Rows of the table: the plain side at the first batch size, ours at each of them."""
        variants = [(PLAIN, batches[0]), *((OURS, batch) for batch in batches)]
        times: dict[tuple[str, int], list[Seconds]] = {variant: [] for variant in variants}
        for _ in range(repetitions):
            for side, batch in variants:
                times[side, batch].append(self.run(side, files[:batch]))
        plain, *several = [
            Measured(batch, times[side, batch], self._least(work[side], side, batch, limits))
            for side, batch in variants
        ]
        return [row for ours in several for row in _rows(self.dtype, plain, ours)]

    def run(self, side: str, files: Sequence[Path]) -> Seconds:
        """Seconds of each stage for one image, of one batch."""
        worker, batch = self.workers[side], len(files)
        start = time.perf_counter()
        worker.preprocess(files)
        preprocessing = (time.perf_counter() - start) / batch
        self.clock.reset()
        start = time.perf_counter()
        self.results[side] = worker.make(files)
        whole = (time.perf_counter() - start) / batch
        stages = self._by_stage(self.clock.seconds, batch)
        rest = whole - preprocessing - self._sum(stages)
        return {"preprocessing": preprocessing, **stages, "the rest": rest, WHOLE: whole}

    def _by_stage(self, calls: Mapping[str, Sequence[float]], batch: int) -> dict[str, float]:
        return {
            stage: sum(each) / batch / self.repeats.get(stage, 1) for stage, each in calls.items()
        }

    def _sum(self, stages: Mapping[str, float]) -> float:
        return sum(value * self.repeats.get(stage, 1) for stage, value in stages.items())

    def _least(
        self, work: Mapping[str, float], side: str, batch: int, limits: Limits
    ) -> dict[str, float]:
        other = self.plain_dtypes if side == PLAIN else {}
        least = {
            stage: limits.seconds(
                flop, other.get(stage, self.dtype), self.reads.get(stage, 0) / batch
            )
            for stage, flop in work.items()
        }
        return least | {WHOLE: self._sum(least)}


@dataclass(frozen=True)
class Measured:
    """One side at one batch size: seconds of each repetition, and the least there can be."""

    batch: int
    times: list[Seconds]
    least: dict[str, float]

    def median(self, stage: str) -> float:
        return statistics.median(one[stage] for one in self.times)


def _rows(dtype: str, plain: Measured, ours: Measured) -> list[dict[str, Any]]:
    """A row for each stage: medians, the median and the range of the ratios of single
    repetitions, and the share of the limit that each side reaches.
    """
    made = []
    for stage in plain.times[0]:
        ratios = [a[stage] / b[stage] for a, b in zip(plain.times, ours.times, strict=True)]
        row = {
            "precision": dtype,
            "batches": [plain.batch, ours.batch],
            "stage": stage,
            "plain_seconds": plain.median(stage),
            "our_seconds": ours.median(stage),
            "ratio": statistics.median(ratios),
            "ratios": [min(ratios), max(ratios)],
        }
        if stage in plain.least:
            row["plain_share"] = plain.least[stage] / plain.median(stage)
            row["our_share"] = ours.least[stage] / ours.median(stage)
        made.append(row)
    return made


def markdown(result: Mapping[str, Any]) -> str:
    """The table of a result, and a line for each thing that it says in words."""
    heads = ["precision", "batches", "stage", "plain, ms", "ours, ms", "plain / ours"]
    heads += ["plain, of the limit", "ours, of the limit"]
    lines = [heads, ["---", "---", "---", *["---:"] * 5]]
    for row in result["rows"]:
        low, high = row["ratios"]
        lines.append(
            [
                row["precision"],
                "{} and {}".format(*row["batches"]),
                row["stage"],
                *(f"{row[side] * 1e3:,.1f}" for side in ("plain_seconds", "our_seconds")),
                f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})",
                *(
                    f"{row[side]:.0%}" if side in row else ""
                    for side in ("plain_share", "our_share")
                ),
            ]
        )
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    said = "\n".join(f"- {name}: {words}" for name, words in result["facts"].items())
    return f"{table}\n\n{said}"


def report(result: dict[str, Any], file: Path | None) -> None:
    """Print the table and what memory the run took; write the figures, with what made them, to a
    file if there is one.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result["facts"]["peak memory"] = f"{peak / 1e9:.1f} GB"
    print(markdown(result))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def arguments(description: str | None, sizes: tuple[str, ...]) -> argparse.ArgumentParser:
    """The options that both comparisons have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sizes, default=sizes[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser
