"""Histograms of samples, kept and dropped, in fixed bins, so that those of shards add up."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

_INF = float("inf")
# Name -> title and edges; a value belongs to the bin that begins at the last edge not above it.
QUANTITIES: dict[str, tuple[str, tuple[float, ...]]] = {
    "side": (
        "Shorter side in pixels",
        (0, 64, 128, 256, 384, 513, 640, 768, 1024, 1536, 2048, 4096, _INF),
    ),
    "aspect_ratio": (
        "Width / height",
        (0, 0.25, 0.333, 0.5, 0.667, 0.75, 0.9, 1.1, 1.333, 1.5, 2.0001, 3, 4, _INF),
    ),
    "aesthetic": ("Aesthetic score", (-_INF, *np.arange(3, 8.1, 0.5).tolist(), _INF)),
    "watermark": ("Watermark probability", (*np.arange(0, 0.95, 0.1).round(1).tolist(), _INF)),
}


@dataclass
class Histograms:
    """Counts by quantity: for each bin, how many samples were kept and how many dropped."""

    counts: dict[str, list[list[int]]]

    @classmethod
    def empty(cls) -> "Histograms":
        """No samples."""
        return cls({name: [[0, 0] for _ in edges[1:]] for name, (_, edges) in QUANTITIES.items()})

    def add(self, values: dict[str, Any], kept: Iterable[bool]) -> None:
        """Add samples: quantity -> a value for each sample, None where it is unknown."""
        chosen = np.array(list(kept), bool)
        for name, each in values.items():
            numbers = np.array([_number(one) for one in each], np.float64)
            edges = np.array(QUANTITIES[name][1][1:-1])
            known = ~np.isnan(numbers)
            bins = np.searchsorted(edges, numbers[known], side="right")
            for column, these in enumerate((chosen[known], ~chosen[known])):
                found = np.bincount(bins[these], minlength=len(edges) + 1)
                for at, count in enumerate(found.tolist()):
                    self.counts[name][at][column] += count

    def merge(self, counts: dict[str, list[list[int]]]) -> None:
        """Add the counts of other samples."""
        for name, bins in counts.items():
            for mine, theirs in zip(self.counts[name], bins, strict=True):
                mine[0] += theirs[0]
                mine[1] += theirs[1]


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def bin_labels(name: str) -> list[str]:
    """What stands below the bars of a quantity: where each bin begins."""
    edges = QUANTITIES[name][1]
    return [f"< {_short(edges[1])}" if edge == -_INF else f"{_short(edge)}" for edge in edges[:-1]]


def _short(edge: float) -> str:
    return f"{edge:.0f}" if edge > 100 else f"{edge:.2f}".rstrip("0").rstrip(".")
