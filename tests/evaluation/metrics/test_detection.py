"""AUROC under weights, calibration error, and the threshold of split conformal prediction."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from vlv.evaluation.metrics.detection import (
    auroc_figure,
    auroc_statistic,
    bin_of,
    calibration_error_statistic,
    conformal_threshold,
    perfect_auroc_low,
)
from vlv.evaluation.metrics.statistics import Bootstrap


def test_auroc_of_weighted_groups_is_that_of_groups_drawn_so_often() -> None:
    rng = np.random.default_rng(0)
    groups = np.arange(30) % 6
    scores = rng.integers(0, 8, 30).astype(float)  # with ties
    false = rng.random(30) < 0.4
    statistic = auroc_statistic((scores.tolist(), false.tolist(), groups.tolist()))
    weights = rng.integers(0, 3, (5, 6)).astype(float)
    for row, found in zip(weights, statistic(weights), strict=True):
        times = row[groups].astype(int)
        drawn, wrong = np.repeat(scores, times), np.repeat(false, times)
        gaps = drawn[wrong][:, None] - drawn[~wrong][None]
        assert found == pytest.approx(np.mean((gaps > 0) + (gaps == 0) / 2))


def test_auroc_without_both_kinds_is_undefined() -> None:
    statistic = auroc_statistic(([0.1, 0.2], [True, True], [0, 1]))
    assert math.isnan(float(statistic(np.ones((1, 2)))[0]))
    assert math.isnan(float(auroc_statistic(([], [], []))(np.ones((1, 2)))[0]))


def test_an_auroc_without_errors_has_an_interval() -> None:
    bootstrap = Bootstrap(20, 0)
    # One true sentence in every image, and a false one in ten of them.
    scores, groups = [0.0] * 20 + [1.0] * 10, [*range(20), *range(10)]
    false = [False] * 20 + [True] * 10
    found = auroc_figure(bootstrap, (scores, false, groups))
    assert (found.value, found.high) == (1, 1)
    # Newcombe's equation at the end: the square of the distance is that of 1.96 standard errors.
    low = found.low
    variance = low * (1 - low) * (1 + 14 * ((1 - low) / (2 - low) + low / (1 + low))) / (10 * 20)
    assert (1 - low) ** 2 == pytest.approx(1.96**2 * variance)
    assert 0.8 < low < 0.9
    # Three more sentences of each image tell nothing about other images.
    again = auroc_figure(bootstrap, (scores * 4, false * 4, groups * 4))
    assert again == found
    opposite = auroc_figure(bootstrap, ([-score for score in scores], false, groups))
    assert (opposite.value, opposite.low, opposite.high) == (0, 0, pytest.approx(1 - low))


def test_an_area_at_the_lower_end_is_rarely_seen_as_one() -> None:
    low = perfect_auroc_low(8, 30)
    apart = math.sqrt(2) * float(norm.ppf(low))  # of two normal scores of that area
    rng = np.random.default_rng(0)
    perfect = rng.normal(apart, 1, (4000, 8)).min(1) > rng.normal(0, 1, (4000, 30)).max(1)
    assert 0.001 < perfect.mean() < 0.025


def test_calibration_error_is_the_gap_of_each_bin_by_its_size() -> None:
    # 0.9 to 1: four sentences at 0.95, of which two are true; 0.1 to 0.2: one at 0.15, false.
    probabilities, true = [0.95] * 4 + [0.15], [True, True, False, False, False]
    statistic = calibration_error_statistic(probabilities, true, [0, 0, 0, 0, 1], 2)
    both, first = statistic(np.array([[1.0, 1.0], [1.0, 0.0]]))
    assert both == pytest.approx((4 * 0.45 + 0.15) / 5)
    assert first == pytest.approx(0.45)
    assert bin_of([0.0, 0.1, 0.999, 1.0]).tolist() == [0, 1, 9, 9]


def test_the_threshold_is_the_rank_of_split_conformal_prediction() -> None:
    scores = [at / 100 for at in range(1, 100)]  # 99 of them: (99 + 1) * 0.95 = the 95th
    assert conformal_threshold(scores, 0.05) == 0.95
    assert conformal_threshold(scores, 0.005) == math.inf  # needs 199
    assert conformal_threshold(scores[:18], 0.05) == math.inf
    assert conformal_threshold(scores[:19], 0.05) == 0.19
    assert conformal_threshold(scores, 1) == -math.inf


def test_false_alarms_keep_to_the_rate_on_average() -> None:
    rng = np.random.default_rng(0)
    reached = [
        np.mean(rng.exponential(1, 400) > conformal_threshold(rng.exponential(1, 40).tolist(), 0.1))
        for _ in range(400)
    ]
    # Exactly floor(41 * 0.1) / 41 = 0.0976 on average, with a standard error of 0.0024.
    assert np.mean(reached) == pytest.approx(4 / 41, abs=0.008)
