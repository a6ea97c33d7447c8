"""How fast a run trains, what it has cost so far, and when its budget is spent. Knows no loop.

Hours are those since the run began, its earlier processes included: what was trained after the last
checkpoint of a killed process is not in them, nor is the opening of models and images.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from vlv.models.precision import device_name
from vlv.training.config import TrainingConfig
from vlv.training.cost.gpus import GPU, gpu_of_driver
from vlv.training.samples.source import Batch

# Steps of a process that its rates leave out: memory is first taken and kernels are first chosen.
WARM_UP = 3
Phase = Literal[
    "warm_up",
    "step",
    "first_validation",
    "validation",
    "saving",
    "export",
    "last_validation",
]
_ELAPSED = "elapsed_seconds"


@dataclass
class Spent:
    """What one process did in a phase of its work, and the time that it took; CPU time is that of
    all its threads.
    """

    count: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    samples: int = 0
    """Of all processes."""
    tokens: int = 0
    """Of captions, of this process."""
    padded: int = 0
    """The same with padding."""


class Throughput:
    """The clock of a run from the moment it is made. `processes` train on a device each."""

    def __init__(
        self, config: TrainingConfig, device: torch.device, precision: str, processes: int
    ) -> None:
        self._config = config
        self._processes = processes
        self._on_gpu = device.type != "cpu"
        self._precision: Literal["bf16", "no"] = "bf16" if precision == "bf16" else "no"
        self._gpu = gpu_of_driver(device_name(device)) if self._on_gpu else None
        self._started = time.monotonic()
        self._before = 0.0
        self._spent: dict[Phase, Spent] = {}
        self._flops: float | None = None

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from the numbers of a checkpoint; older ones know training time alone."""
        self._before = state.get(_ELAPSED, state["seconds"])

    def numbers(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {_ELAPSED: self.seconds}

    @property
    def seconds(self) -> float:
        """Of the run until now, with validation and saving."""
        return self._before + time.monotonic() - self._started

    @contextmanager
    def step(self, samples: int) -> Iterator[Spent]:
        """Inside, a step on so many samples of all processes is computed. Gives what it took."""
        warm_up = self._phase("warm_up")
        taken = Spent(1, samples=samples)
        with self.phase("step" if warm_up.count >= WARM_UP else "warm_up", taken):
            yield taken

    def validation(self) -> AbstractContextManager[None]:
        """Inside, the run validates; the first time in a process prepares more."""
        first = "first_validation" not in self._spent
        return self.phase("first_validation" if first else "validation")

    @contextmanager
    def phase(self, name: Phase, taken: Spent | None = None) -> Iterator[None]:
        """Inside, the run does what the name says, once."""
        taken = taken or Spent(1)
        seconds, cpu = time.monotonic(), time.process_time()
        yield
        taken.seconds = time.monotonic() - seconds
        taken.cpu_seconds = time.process_time() - cpu
        spent = self._phase(name)
        for field, value in vars(taken).items():
            setattr(spent, field, getattr(spent, field) + value)

    def _phase(self, name: Phase) -> Spent:
        return self._spent.setdefault(name, Spent())

    def phases(self) -> dict[str, dict[str, float]]:
        """What this process did, for the record of the run."""
        return {
            name: {k: round(v, 4) for k, v in vars(x).items()} for name, x in self._spent.items()
        }

    def figures(self) -> dict[str, float]:
        """What is logged: rates while training, of this process after its warm-up, and hours and
        money of the run. The first process speaks for the others, whose batches are as large.
        """
        steps = self._spent.get("step") or self._phase("warm_up")
        training = max(steps.seconds, 1e-9)
        made = {"samples_per_second": steps.samples / training}
        if steps.tokens:
            made["tokens_per_second"] = steps.tokens * self._processes / training
        if self._gpu is not None:
            made |= self._share_of_peak(self._gpu, steps)
        made["hours"] = hours = self.seconds / 3600  # one moment for all three
        if self._on_gpu:
            made["gpu_hours"] = hours * self._processes
        if self._config.price_per_gpu_hour is not None:
            made["cost_usd"] = hours * self._processes * self._config.price_per_gpu_hour
        return made

    @property
    def limited(self) -> bool:
        """Whether the run has a budget."""
        return self._config.max_hours is not None or self._config.max_cost_usd is not None

    def exceeded(self) -> str | None:
        """The limit that has been reached, in words; None while there is budget left."""
        config = self._config
        if config.max_hours is not None and self.seconds >= config.max_hours * 3600:
            return f"max_hours={config.max_hours:g}"
        cost = self._process_hours * (config.price_per_gpu_hour or 0.0)
        if config.max_cost_usd is not None and cost >= config.max_cost_usd:
            return f"max_cost_usd={config.max_cost_usd:g}"
        return None

    @property
    def _process_hours(self) -> float:
        return self.seconds / 3600 * self._processes

    def _share_of_peak(self, gpu: GPU, steps: Spent) -> dict[str, float]:
        """Of stages 1 and 2, whose operations can be counted; all that are computed."""
        # Counting takes diffusers and seconds: once, and where a GPU is known.
        from vlv.training.cost.work import sample_flops

        if self._flops is None:
            # By now captions have lengths.
            length = round(steps.padded * self._processes / max(steps.samples, 1))
            self._flops = sample_flops(self._config, length)
        if not self._flops:
            return {}
        rate = self._flops * steps.samples / max(steps.seconds, 1e-9)
        return {"share_of_peak": rate / (gpu.peak(self._precision) * self._processes)}


def count_captions(taken: Spent, batch: Batch) -> None:
    """Add the captions of a micro-batch of this process, before it goes to the device."""
    lengths = batch.get("caption_length")
    if lengths is not None:
        taken.tokens += int(lengths.sum())
        taken.padded += int(lengths.max()) * len(lengths)
