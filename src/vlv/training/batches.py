"""Batches on their way to the device, and metrics on their way back, without waiting in between.

A GPU computes behind the program that gives it work. Reading one number of its results makes the
program wait until all work is done; so nothing here reads one before a step is complete.
"""

import math
from collections.abc import Mapping
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from vlv.training.config import TrainingConfig
from vlv.training.samples.carried import collated


def loader_settings(config: TrainingConfig, device: torch.device) -> dict[str, Any]:
    """Arguments of a run's `DataLoader`. Its workers live as long as the run, which reads the
    loader once, from its first to its last step.
    """
    settings: dict[str, Any] = {
        "pin_memory": device.type == "cuda",
        "collate_fn": partial(collated, default_collate),
    }
    if config.dataloader_num_workers > 0:
        settings["prefetch_factor"] = config.dataloader_prefetch_factor
    return settings


class MicroBatchMetrics:
    """Metrics of the micro-batches of one step, kept on the device until they are read at once."""

    def __init__(self) -> None:
        self._kept: list[dict[str, Tensor]] = []
        self._read: list[dict[str, float]] = []

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Keep the metrics, `loss` among them, of a micro-batch."""
        self._kept.append({name: value.detach() for name, value in metrics.items()})

    def read_with(self, further: Tensor) -> float:
        """Read everything, and `further`, a scalar, which is returned: waits for the device once.

        Metrics are scalars of at most float32.
        """
        scalars = [value for kept in self._kept for value in kept.values()]
        both = [value.float().reshape(()) for value in (*scalars, further.detach())]
        *numbers, last = torch.stack([value.to(both[0].device) for value in both]).tolist()
        values = iter(numbers)
        self._read = [{name: next(values) for name in kept} for kept in self._kept]
        return float(last)

    @property
    def losses(self) -> list[float]:
        """The loss of each micro-batch."""
        return [metrics["loss"] for metrics in self._read]

    def means(self) -> dict[str, float]:
        """Every metric as its mean over the micro-batches that know it: where it is NaN, a batch
        says nothing of it.
        """
        values: dict[str, list[float]] = {}
        for metrics in self._read:
            for name, value in metrics.items():
                values.setdefault(name, []).append(value)
        known = {
            name: [value for value in found if not math.isnan(value)]
            for name, found in values.items()
        }
        return {name: fmean(found) if found else math.nan for name, found in known.items()}
