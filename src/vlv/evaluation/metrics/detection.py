"""How well a score tells false sentences from true ones: AUROC, calibration error, and a threshold
that keeps false alarms to a rate.

Sentences come in groups (those of one image), which intervals resample whole. Knows numbers only.

Shapes: m sentences, n groups, R resamples, B bins.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from vlv.evaluation.metrics.statistics import Array, Bootstrap, Figure, Statistic

Scored = tuple[Sequence[float], Sequence[bool], Sequence[int]]
"""Of every sentence its score, whether it is false, and the number of its group."""
BINS = tuple(at / 10 for at in range(11))
"""Edges of the bins of predicted probabilities; the last one holds 1."""


def auroc_statistic(scored: Scored) -> Statistic:
    """Weights of the groups (R,n) -> (R,): the chance that a false sentence scores above a true
    one, ties by half (the area under the ROC curve); NaN where one of the two has no weight.
    """
    scores, false, groups = scored
    _, ranks = np.unique(np.asarray(scores, np.float64), return_inverse=True)
    is_false = np.asarray(false, dtype=bool)
    group = np.asarray(groups, dtype=np.int64)

    def one(weights: Array) -> float:
        each = weights[group]
        of_false = np.bincount(ranks, each * is_false)
        of_true = np.bincount(ranks, each * ~is_false)
        pairs = of_false.sum() * of_true.sum()
        below = np.cumsum(of_true) - of_true / 2
        return float((of_false * below).sum() / pairs) if pairs else math.nan

    def statistic(weights: Array) -> Array:
        return np.array([one(row) for row in weights], np.float64)

    return statistic


def auroc_figure(bootstrap: Bootstrap, scored: Scored) -> Figure:
    """The AUROC with its 95% interval, which has a width too where it is 0 or 1: resamples are all
    alike then. Groups are counted instead of sentences, since those of one image are not
    independent.
    """
    found = bootstrap.of(auroc_statistic(scored))
    _, false, groups = scored
    if found.value not in (0, 1):
        return found
    with_false, with_true = (
        len({group for group, is_false in zip(groups, false, strict=True) if is_false is kind})
        for kind in (True, False)
    )
    reach = 1 - perfect_auroc_low(with_false, with_true)
    return Figure(0.0, 0.0, reach) if found.value == 0 else Figure(1.0, 1 - reach, 1.0)


def perfect_auroc_low(false: int, true: int) -> float:
    """The lower end of the 95% interval of an AUROC of 1 over so many false and true sentences:
    the smallest area from which 1 is 1.96 standard errors away, by the variance of Hanley and
    McNeil (1982) with both sizes at their mean (Newcombe, 2006, method 5).
    """
    size = (false + true) / 2 - 1

    def beyond(area: float) -> float:
        spread = 1 + size * ((1 - area) / (2 - area) + area / (1 + area))
        return (1 - area) - 1.96**2 * area * spread / (false * true)

    return float(brentq(beyond, 0, 1))


def bin_of(probabilities: Sequence[float]) -> NDArray[np.int64]:
    """The bin of each probability: (m,), from 0."""
    found = np.searchsorted(BINS, np.asarray(probabilities, np.float64), side="right") - 1
    return np.clip(found, 0, len(BINS) - 2).astype(np.int64)


def calibration_error_statistic(
    probabilities: Sequence[float], true: Sequence[bool], groups: Sequence[int], count: int
) -> Statistic:
    """Weights of the `count` groups (R,n) -> (R,): the expected calibration error, which is the gap
    between the mean probability and the share of true sentences, bin by bin, weighed by how many
    sentences a bin holds (Guo et al., 2017, equation 3).
    """
    gaps = np.zeros((len(BINS) - 1, count))
    sizes = np.zeros(count)
    each = np.asarray(probabilities, np.float64) - np.asarray(true, np.float64)
    np.add.at(gaps, (bin_of(probabilities), np.asarray(groups, np.int64)), each)
    np.add.at(sizes, np.asarray(groups, np.int64), 1)

    def statistic(weights: Array) -> Array:
        total = weights @ sizes
        error = np.abs(weights @ gaps.T).sum(1)
        return np.divide(error, total, out=np.full_like(total, np.nan), where=total != 0)

    return statistic


def conformal_threshold(true_scores: Sequence[float], rate: float) -> float:
    """The score above which sentences are flagged, so that at most `rate` of new true sentences
    are, where they are exchangeable with these; infinite where these are too few for the rate.

    Split conformal prediction: the k-th smallest of n scores, k = ceil((n + 1) (1 - rate))
    (Vovk et al., 2005; Angelopoulos and Bates, 2021, section 1).
    """
    count = len(true_scores)
    # Rounded first: (99 + 1) (1 - 0.05) is 95 and not the next larger number.
    place = math.ceil(round((count + 1) * (1 - rate), 9))
    if place > count:
        return math.inf
    if place < 1:
        return -math.inf
    return float(np.sort(np.asarray(true_scores, np.float64))[place - 1])
