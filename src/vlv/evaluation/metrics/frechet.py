"""Frechet distances between sets of features, with intervals; and FID and KID by torchmetrics.

FID is the Frechet distance of features of Inception. torchmetrics computes FID and KID; what it has
no counterpart of are intervals, which come from resampled images here.

Shapes: n images, F features, R resamples.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlv.evaluation.metrics.libraries import torchmetrics
from vlv.evaluation.metrics.statistics import Figure, frechet_distance

RESAMPLES = 100
# Of KID, as its paper and the libraries have them.
_SUBSETS, _SUBSET_SIZE = 100, 1000
_ROWS_AT_A_TIME = 4096
Array = NDArray[Any]
"""Features in single or in double precision."""
Watch = Callable[..., Iterator[Any]]


def _quietly(items: Iterable[Any], **_: Any) -> Iterator[Any]:
    return iter(items)


@dataclass(frozen=True)
class Distance:
    """A Frechet distance, and the same of each of R resamples."""

    value: float
    resampled: NDArray[np.float64]

    def figure(self) -> Figure:
        """The value, with percentiles of the resamples shifted to have their mean at the value.

        A resample holds fewer different images, so that its distance is larger than the value.
        """
        if self.resampled.size < 2:  # one is no spread
            return Figure(self.value)
        low, high = np.percentile(self.resampled, [2.5, 97.5]) - self.resampled.mean() + self.value
        return Figure(self.value, float(low), float(high))

    def minus(self, other: "Distance") -> Figure:
        """The difference of two distances over the same resamples."""
        return Distance(self.value - other.value, self.resampled - other.resampled).figure()

    @classmethod
    def mean(cls, distances: "list[Distance]") -> "Distance":
        """The mean over several sets of pictures of the same images."""
        values = [one.value for one in distances]
        return cls(float(np.mean(values)), np.mean([one.resampled for one in distances], axis=0))


class FrechetBootstrap:
    """Frechet distances to the images' true features (n, F), over resamples of the images.

    Every resample draws the same images from both sides and for every set of pictures, so that
    differences between sets are paired.
    """

    def __init__(
        self, true: Array, seed: int, resamples: int = RESAMPLES, device: str | None = None
    ) -> None:
        self._true = true
        self._device = torch.device(device or "cpu")
        rng = np.random.default_rng(seed)
        if len(true) < 2:  # a single image has no covariance
            resamples = 0
        self._draws = rng.integers(len(true), size=(resamples, len(true)))

    def distance(self, features: Array) -> Distance:
        """The distance of features (n, F) in the images' order."""
        return self.distances({"": features})[""]

    def distances(self, sets: Mapping[str, Array], watch: Watch = _quietly) -> dict[str, Distance]:
        """The distance of each set of features (n, F); what a resample needs of the true features
        is computed once for all sets.
        """
        true = self._moved(self._true)
        moved = {name: self._moved(features) for name, features in sets.items()}
        found: dict[str, list[float]] = {name: [] for name in sets}
        total = len(self._draws)
        for draw in watch(self._draws, total=total, unit="resample", description="intervals"):
            counts = np.bincount(draw, minlength=len(self._true))
            weights = torch.from_numpy(counts).to(self._device, torch.float64)
            reference = _Reference(*_moments(true, weights))
            for name, features in moved.items():
                found[name].append(reference.distance(*_moments(features, weights)))
        return {
            name: Distance(frechet_distance(sets[name], self._true), np.array(values))
            for name, values in found.items()
        }

    def _moved(self, features: Array) -> Tensor:
        return torch.from_numpy(features).to(self._device)


class _Reference:
    """A Gaussian that others are compared with; the root of its covariance is taken once."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        values, vectors = torch.linalg.eigh(covariance)
        self._mean, self._trace = mean, covariance.trace()
        self._root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T

    def distance(self, mean: Tensor, covariance: Tensor) -> float:
        """As `frechet_distance`."""
        mixed = torch.linalg.eigvalsh(self._root @ covariance @ self._root)
        overlap = mixed.clamp(min=0).sqrt().sum()
        gap = mean - self._mean
        found = gap @ gap + self._trace + covariance.trace() - 2 * overlap
        return max(float(found), 0.0)


def _moments(features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (F,) and covariance (F, F) of features (n, F) that occur `weights` (n,) times."""
    count, width = weights.sum(), features.shape[1]
    parts = list(zip(features.split(_ROWS_AT_A_TIME), weights.split(_ROWS_AT_A_TIME), strict=True))
    mean = torch.zeros(width, dtype=torch.float64, device=features.device)
    covariance = torch.zeros(width, width, dtype=torch.float64, device=features.device)
    # A few rows at a time: there is no copy of all features in double precision.
    for rows, some in parts:
        mean += some @ rows.double() / count
    for rows, some in parts:
        centred = rows.double() - mean
        covariance += (centred * some[:, None]).T @ centred
    return mean, covariance / (count - 1)


def fid(true: Array, drawn: Array) -> float:
    """The Frechet distance of features (n, F) and (m, F), by torchmetrics; NaN for a single image,
    which has no covariance.

    Raises:
        ConfigError: torchmetrics is not installed.
    """
    if min(len(true), len(drawn)) < 2:
        return math.nan
    metric = _of_features("fid.FrechetInceptionDistance", true.shape[1])
    for features, real in ((true, True), (drawn, False)):
        for part in torch.from_numpy(features).split(_ROWS_AT_A_TIME):
            metric.update(part.double(), real=real)
    # What rounding takes below zero, where both sets are the same.
    return max(float(metric.compute()), 0.0)


def kid(true: Array, drawn: Array, seed: int) -> Figure:
    """KID of features (n, F) each, by torchmetrics: the mean over 100 subsets of 1,000 images, or
    of half of them where there are fewer than 2,000.

    The interval is from the spread of the subsets, scaled from their size m to n: a mean over m of
    n images has (n - m) / m times the variance of one over n (the delete-d jackknife).

    Raises:
        ConfigError: torchmetrics is not installed.
    """
    count = min(len(true), len(drawn))
    size = min(_SUBSET_SIZE, count // 2)
    if size < 2:
        return Figure(math.nan)
    metric = _of_features(
        "kid.KernelInceptionDistance", true.shape[1], subsets=_SUBSETS, subset_size=size
    )
    metric.update(torch.from_numpy(true).double(), real=True)
    metric.update(torch.from_numpy(drawn).double(), real=False)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        mean, deviation = (float(value) for value in metric.compute())
    half = 1.96 * deviation * math.sqrt(size / (count - size))
    return Figure(mean, mean - half, mean + half)


class _AsTheyAre(torch.nn.Module):
    """Takes the place of a network where features are computed already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        """The features."""
        return features


def _of_features(name: str, width: int, **settings: Any) -> Any:
    """A metric of torchmetrics that is given features in place of images."""
    # Its package names them only where torch-fidelity is installed, which is not needed here.
    module, _, kind = name.partition(".")
    metrics = torchmetrics(f"image.{module}")
    with warnings.catch_warnings():
        # That features are kept in memory, where they are already.
        warnings.filterwarnings("ignore", message=".*will save all extracted features in buffer.*")
        metric = getattr(metrics, kind)(feature=_AsTheyAre(width), **settings)
    return metric.set_dtype(torch.float64)
