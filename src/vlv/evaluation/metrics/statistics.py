"""Figures with intervals, and the Frechet distance.

Every figure is a ratio of two sums over scenes (a mean has ones as denominators), so that one
bootstrap over scenes serves all of them.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""How often each scene was drawn (R,n) -> the figure of each draw (R,)."""
RESAMPLES = 1000


@dataclass(frozen=True)
class Ratio:
    """Numerator and denominator of a figure, scene by scene: (n,) each."""

    over: Array
    under: Array

    def first(self, count: int) -> "Ratio":
        """The same of the first `count` scenes."""
        return Ratio(self.over[:count], self.under[:count])


@dataclass(frozen=True)
class Figure:
    """A value with its 95% interval; NaN where there was nothing to measure, or is no interval."""

    value: float
    low: float = math.nan
    high: float = math.nan


def by_scene(values: Iterable[float]) -> Array:
    """One value a scene, as it comes: (n,)."""
    return np.fromiter(values, np.float64)


def mean_of(values: Iterable[float]) -> Ratio:
    """The plain mean of one value a scene."""
    found = by_scene(values)
    return Ratio(found, np.ones_like(found))


def sums_by_scene(values: ArrayLike, scenes: ArrayLike, count: int) -> Array:
    """Of values (m,), each of a scene by its number (m,): the sum of every scene (count,)."""
    found = np.zeros(count)
    np.add.at(found, np.asarray(scenes, np.int64), np.asarray(values, np.float64))
    return found


class Bootstrap:
    """95% percentile intervals from resampled scenes; none of a single scene.

    Each resample draws the same scenes for every figure, so that differences between two
    conditions are paired.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._weights = scene_draws(count, seed)

    def figure(self, ratio: Ratio) -> Figure:
        """The ratio of sums over all scenes, with its interval."""
        return figure_of(_quotient(ratio.over.sum(), ratio.under.sum()), self._resampled(ratio))

    def figures(self, ratios: Mapping[str, Ratio]) -> dict[str, Figure]:
        """`figure` of each ratio, by its name."""
        return {name: self.figure(ratio) for name, ratio in ratios.items()}

    def share(self, ratio: Ratio) -> Figure:
        """A share, whose interval has a width too where none or all are counted: resamples are all
        alike then, and its end is the share that n scenes miss with a chance of 2.5%, 1 -
        0.025^(1/n) (Clopper and Pearson, 1934).
        """
        found = self.figure(ratio)
        if found.value not in (0, 1):
            return found
        reach = 1 - 0.025 ** (1 / np.count_nonzero(ratio.under))
        return Figure(0.0, 0.0, reach) if found.value == 0 else Figure(1.0, 1 - reach, 1.0)

    def of(self, statistic: Statistic) -> Figure:
        """Any figure of the scenes, with its interval."""
        whole = statistic(np.ones((1, self._weights.shape[1])))
        return figure_of(float(whole[0]), statistic(self._weights))

    def difference(self, a: Ratio, b: Ratio) -> Figure:
        """Figure a minus figure b, both over the same scenes."""
        value = _quotient(a.over.sum(), a.under.sum()) - _quotient(b.over.sum(), b.under.sum())
        return figure_of(value, self._resampled(a) - self._resampled(b))

    def _resampled(self, ratio: Ratio) -> Array:
        return _quotient(self._weights @ ratio.over, self._weights @ ratio.under)


def scene_draws(count: int, seed: int) -> Array:
    """How often each of `count` scenes is drawn in each resample: (R, count). A single scene, all
    resamples of which would be alike, has none.
    """
    if count < 2:
        return np.zeros((0, count))
    draws = np.random.default_rng(seed).multinomial(
        count, np.full(count, 1 / count), size=RESAMPLES
    )
    return draws.astype(np.float64)


class SeedBootstrap:
    """95% percentile intervals over scenes and over the seeds of trained models.

    A figure is a list of ratios over the same scenes, one of each model. Each resample draws
    scenes, the same for every figure, and one model less than there are: the mean of so many varies
    as much as means of all do over other seeds, and that of as many varies less (Rao and Wu, 1988).
    Of a single model only the scenes vary. The range of three models holds the mean of all seeds in
    three of four cases only, so that intervals over few models are too narrow all the same.
    """

    def __init__(self, count: int, seed: int, resamples: int = RESAMPLES) -> None:
        self._rng = np.random.default_rng([seed, count])
        draws = self._rng.multinomial(count, np.full(count, 1 / count), size=resamples)
        self._weights = draws.astype(np.float64)

    def figure(self, models: Sequence[Ratio]) -> Figure:
        """The ratio of sums over all models and scenes, with its interval."""
        return figure_of(_pooled(models), self.resampled(models))

    def difference(self, a: Sequence[Ratio], b: Sequence[Ratio]) -> Figure:
        """Figure a minus figure b, over the same scenes."""
        return figure_of(_pooled(a) - _pooled(b), self.resampled(a) - self.resampled(b))

    def resampled(self, models: Sequence[Ratio]) -> Array:
        """The figure in every resample: (R,)."""
        share = np.full(len(models), 1 / len(models))
        drawn = self._rng.multinomial(max(1, len(models) - 1), share, size=len(self._weights))
        over, under = (
            (drawn * np.stack([self._weights @ part for part in parts], axis=1)).sum(axis=1)
            for parts in ([one.over for one in models], [one.under for one in models])
        )
        return _quotient(over, under)


def frechet_distance(a: Array, b: Array) -> float:
    """Squared Frechet distance of two Gaussians fitted to features (n, F) and (m, F).

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) with the covariances A and B. It depends on
    how many pictures there are; compare only distances of equally many.
    """
    if min(len(a), len(b)) < 2:
        return float("nan")
    gap = a.mean(0) - b.mean(0)
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # (A B)^(1/2) has the trace of the symmetric (A^(1/2) B A^(1/2))^(1/2), which is safe to take.
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    mixed = np.linalg.eigvalsh(root @ second @ root)
    overlap = np.sqrt(mixed.clip(min=0)).sum()
    return max(float(gap @ gap + np.trace(first) + np.trace(second) - 2 * overlap), 0.0)


def _quotient(over: Array, under: Array) -> Array:
    return np.divide(over, under, out=np.full_like(over, np.nan), where=under != 0)


def _pooled(models: Sequence[Ratio]) -> Array:
    over = np.asarray(sum(one.over.sum() for one in models))
    return _quotient(over, np.asarray(sum(one.under.sum() for one in models)))


def figure_of(value: Array | float, resampled: Array) -> Figure:
    """A value with the 95% interval of its resamples."""
    known = resampled[~np.isnan(resampled)]
    low, high = np.percentile(known, [2.5, 97.5]) if known.size else (np.nan, np.nan)
    return Figure(float(value), float(low), float(high))
