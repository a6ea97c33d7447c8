"""How far raters agree: Krippendorff's alpha of all of them, Cohen's weighted kappa of two."""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from vlv.errors import ConfigError
from vlv.evaluation.metrics.statistics import Figure, figure_of

Unit = tuple[str, str]
"""What is rated: an image and a captioner."""
Ratings = Mapping[str, Mapping[Unit, int]]
"""rater -> unit -> score."""

# An alpha takes a millisecond and more, and needs no more digits than this gives.
_RESAMPLES = 200


def require_krippendorff() -> None:
    """Raise ConfigError where the library is not installed."""
    if find_spec("krippendorff") is None:
        raise ConfigError(
            "agreement needs krippendorff; install it with: pip install 'vlv[judges]'"
        )


def krippendorff_alpha(scores: NDArray[np.float64]) -> float:
    """Ordinal alpha of scores (raters, units), NaN where a rater gave none; NaN where all scores
    are equal or no unit has two (Krippendorff, Content Analysis, chapter 12).
    """
    from krippendorff import alpha

    paired = scores[:, (~np.isnan(scores)).sum(0) > 1]
    if len(np.unique(paired[~np.isnan(paired)])) < 2:
        return float("nan")
    return float(alpha(reliability_data=paired, level_of_measurement="ordinal"))


def cohen_kappa(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Kappa with quadratic weights of two raters' scores of the same units (n,); NaN where each
    gave one score only (Cohen, 1968).

    One minus the mean squared difference over that of all pairs of their scores.
    """
    if not len(first):
        return float("nan")
    expected = np.mean((first[:, None] - second[None, :]) ** 2)
    if expected == 0:
        return float("nan")
    return float(1 - np.mean((first - second) ** 2) / expected)


def agreement(ratings: Ratings, raters: Sequence[str], seed: int) -> tuple[dict[str, Figure], int]:
    """Figures of some raters, with intervals over images, and the units that two of them rated.

    alpha; and of two raters kappa, and the shares of equal scores and of scores that are at most
    one apart.
    """
    units = sorted({unit for rater in raters for unit in ratings[rater]})
    scores = np.array(
        [[ratings[rater].get(unit, np.nan) for unit in units] for rater in raters], np.float64
    ).reshape(len(raters), len(units))
    shared = (~np.isnan(scores)).sum(0) > 1
    scores = scores[:, shared]
    images = np.array([unit[0] for unit, both in zip(units, shared, strict=True) if both])
    if not len(images):
        return {"alpha": Figure(np.nan)}, 0
    groups = [np.flatnonzero(images == image) for image in np.unique(images)]
    rng = np.random.default_rng(seed)
    draws = [
        np.concatenate([groups[one] for one in rng.integers(len(groups), size=len(groups))])
        for _ in range(_RESAMPLES if len(groups) > 1 else 0)
    ]

    measures: dict[str, Callable[[NDArray[np.float64]], float]] = {"alpha": krippendorff_alpha}
    if len(raters) == 2:
        measures |= {
            "kappa": lambda pair: cohen_kappa(pair[0], pair[1]),
            "equal_share": lambda pair: float(np.mean(pair[0] == pair[1])),
            "within_one": lambda pair: float(np.mean(abs(pair[0] - pair[1]) <= 1)),
        }
    figures = {
        name: figure_of(measure(scores), np.array([measure(scores[:, draw]) for draw in draws]))
        for name, measure in measures.items()
    }
    return figures, len(images)
