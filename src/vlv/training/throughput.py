"""How fast a run trains, what it has cost so far, and when its budget is spent. Knows no loop.

Hours are those since the run began, its earlier processes included: what was trained after the last
checkpoint of a killed process is not in them, nor is the opening of models and images.
"""

import time
from collections.abc import Mapping
from typing import Any

import torch

from vlv.models.precision import device_name
from vlv.training.config import TrainingConfig
from vlv.training.cost.gpus import GPU, gpu_of_driver
from vlv.training.samples.source import Batch

_SECONDS = "elapsed_seconds"


class Throughput:
    """The clock of a run from the moment it is made. `processes` train on a device each."""

    def __init__(
        self,
        config: TrainingConfig,
        device: torch.device,
        precision: str,
        processes: int,
    ) -> None:
        self._config = config
        self._processes = processes
        self._on_gpu = device.type != "cpu"
        self._precision = precision
        self._gpu = gpu_of_driver(device_name(device)) if self._on_gpu else None
        self._started = time.monotonic()
        self._before = 0.0
        # Of this process alone, since it began to train.
        self._training = 0.0
        self._samples = 0
        self._tokens = 0
        self._padded = 0
        self._flops: float | None = None

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from the numbers of a checkpoint; older ones know training time alone."""
        self._before = state.get(_SECONDS, state["seconds"])

    def numbers(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {_SECONDS: self.seconds}

    @property
    def seconds(self) -> float:
        """Of the run until now, with validation and saving."""
        return self._before + time.monotonic() - self._started

    def see(self, batch: Batch) -> None:
        """Count a micro-batch of this process, before it goes to the device."""
        lengths = batch.get("caption_length")
        if lengths is not None:
            self._tokens += int(lengths.sum())
            self._padded += int(lengths.max()) * len(lengths)

    def step(self, samples: int, seconds: float) -> None:
        """Count a step of all processes together."""
        self._samples += samples
        self._training += seconds

    def figures(self) -> dict[str, float]:
        """What is logged: rates while training since this process began, hours and money of the
        run. The first process speaks for the others, whose batches are as large as its own.
        """
        training = max(self._training, 1e-9)
        made = {"samples_per_second": self._samples / training}
        if self._tokens:
            made["tokens_per_second"] = self._tokens * self._processes / training
        if self._gpu is not None:
            made |= self._share_of_peak(self._gpu, made["samples_per_second"])
        made["hours"] = self.seconds / 3600
        if self._on_gpu:
            made["gpu_hours"] = self._process_hours
        if self._config.price_per_gpu_hour is not None:
            made["cost_usd"] = self._cost(self._config.price_per_gpu_hour)
        return made

    def spent(self) -> str | None:
        """Which limit has been reached, in words; None while there is budget left."""
        config = self._config
        if config.max_hours is not None and self.seconds >= config.max_hours * 3600:
            return f"max_hours={config.max_hours:g} is spent"
        if config.max_cost_usd is not None and config.price_per_gpu_hour is not None:
            cost = self._cost(config.price_per_gpu_hour)
            if cost >= config.max_cost_usd:
                return f"max_cost_usd={config.max_cost_usd:g} is spent"
        return None

    @property
    def limited(self) -> bool:
        """Whether the run has a budget."""
        return self._config.max_hours is not None or self._config.max_cost_usd is not None

    @property
    def _process_hours(self) -> float:
        return self.seconds / 3600 * self._processes

    def _cost(self, price: float) -> float:
        return self._process_hours * price

    def _share_of_peak(self, gpu: GPU, samples_per_second: float) -> dict[str, float]:
        """Of stages 1 and 2, whose operations can be counted; without those of checkpointing."""
        from vlv.training.cost.work import sample_flops

        if self._flops is None:
            # Once, at the first line of the log: by then captions have lengths.
            length = round(self._padded * self._processes / max(self._samples, 1))
            self._flops = sample_flops(self._config, length)
        if not self._flops:
            return {}
        peak = gpu.peak("bf16" if self._precision == "bf16" else "no") * self._processes
        return {"share_of_peak": self._flops * samples_per_second / peak}
