import math

import numpy as np
import pytest
from scipy.linalg import sqrtm

from vlv.evaluation.metrics.statistics import (
    Bootstrap,
    Ratio,
    SeedBootstrap,
    frechet_distance,
    mean_of,
)


def test_a_figure_is_the_ratio_of_sums_not_the_mean_of_ratios() -> None:
    ratio = Ratio(np.array([1.0, 0.0, 9.0]), np.array([1.0, 2.0, 9.0]))
    figure = Bootstrap(3, seed=0).figure(ratio)
    assert figure.value == pytest.approx(10 / 12)
    assert figure.low <= figure.value <= figure.high


def test_the_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, size=400)
    figure = Bootstrap(400, seed=1).figure(mean_of(values))
    half = 1.96 * values.std() / math.sqrt(400)
    assert figure.value == pytest.approx(values.mean())
    assert figure.low == pytest.approx(values.mean() - half, abs=0.03)
    assert figure.high == pytest.approx(values.mean() + half, abs=0.03)


def test_intervals_follow_from_the_seed() -> None:
    ratio = mean_of(np.arange(20.0))
    once, again, other = (Bootstrap(20, seed=seed).figure(ratio) for seed in (3, 3, 4))
    assert once == again
    assert once != other


def test_differences_are_paired() -> None:
    scenes = np.random.default_rng(0).normal(0.0, 10.0, size=50)
    gap = Bootstrap(50, seed=0).difference(mean_of(scenes + 1), mean_of(scenes))
    # The scenes vary by 10, the difference not at all.
    assert (gap.value, gap.low, gap.high) == pytest.approx((1, 1, 1))


def test_nothing_to_measure_is_nan() -> None:
    figure = Bootstrap(2, seed=0).figure(Ratio(np.zeros(2), np.zeros(2)))
    assert math.isnan(figure.value)
    assert math.isnan(figure.low)
    assert math.isnan(figure.high)


def test_a_figure_with_few_scenes_below_it_ignores_resamples_without_them() -> None:
    figure = Bootstrap(3, seed=0).figure(Ratio(np.array([2.0, 0, 0]), np.array([4.0, 0, 0])))
    assert (figure.value, figure.low, figure.high) == (0.5, 0.5, 0.5)


def test_one_scene_has_no_interval_and_none_has_no_figure() -> None:
    one = Bootstrap(1, seed=0).figure(mean_of(np.array([3.0])))
    assert one.value == 3 and math.isnan(one.low) and math.isnan(one.high)
    assert math.isnan(Bootstrap(0, seed=0).figure(mean_of(np.zeros(0))).value)


def test_a_share_of_none_or_all_has_an_interval_too() -> None:
    two = Ratio(np.zeros(40), np.full(40, 2.0))
    none = Bootstrap(40, seed=0).share(two)
    # With this share of the population, 40 groups show none of it in one case of forty.
    assert (none.value, none.low) == (0, 0) and (1 - none.high) ** 40 == pytest.approx(0.025)
    every = Bootstrap(40, seed=0).share(Ratio(two.under, two.under))
    assert (every.low, every.high) == (pytest.approx(1 - none.high), 1)
    # Groups without a sentence tell nothing.
    few = Ratio(np.zeros(40), np.repeat([1.0, 0.0], 20))
    assert (1 - Bootstrap(40, seed=0).share(few).high) ** 20 == pytest.approx(0.025)
    some = mean_of((np.arange(40) % 4 == 0).astype(float))
    assert Bootstrap(40, seed=0).share(some) == Bootstrap(40, seed=0).figure(some)


@pytest.mark.parametrize("models", [2, 3, 5])
def test_a_mean_over_models_varies_as_means_of_other_seeds_do(models: int) -> None:
    values = np.random.default_rng(1).normal(size=models)
    drawn = SeedBootstrap(2, 0, resamples=40_000).resampled(
        [mean_of(np.full(2, value)) for value in values]
    )
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.02)
    assert drawn.std() == pytest.approx(values.std(ddof=1) / math.sqrt(models), rel=0.03)


class TestFrechetDistance:
    def test_of_shifted_features_is_the_squared_shift(self) -> None:
        features = np.random.default_rng(0).normal(size=(200, 6))
        assert frechet_distance(features, features) == pytest.approx(0, abs=1e-8)
        assert frechet_distance(features, features + 2.0) == pytest.approx(6 * 4.0)

    def test_of_scaled_features(self) -> None:
        features = np.random.default_rng(0).normal(size=(300, 4))
        features -= features.mean(0)
        # tr(A + 9 A - 2 * 3 A) = 4 tr(A)
        expected = 4 * np.trace(np.cov(features, rowvar=False))
        assert frechet_distance(features, 3 * features) == pytest.approx(expected)

    def test_agrees_with_the_definition(self) -> None:
        rng = np.random.default_rng(0)
        a = rng.normal(size=(100, 5)) @ rng.normal(size=(5, 5))
        b = rng.normal(size=(80, 5)) @ rng.normal(size=(5, 5)) + 0.5
        cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
        gap = a.mean(0) - b.mean(0)
        expected = gap @ gap + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
        assert frechet_distance(a, b) == pytest.approx(expected)
        assert frechet_distance(b, a) == pytest.approx(expected)

    def test_of_fewer_pictures_than_features_is_finite(self) -> None:
        rng = np.random.default_rng(0)
        assert frechet_distance(rng.normal(size=(3, 40)), rng.normal(size=(3, 40))) > 0

    def test_of_one_picture_is_unknown(self) -> None:
        assert math.isnan(frechet_distance(np.zeros((1, 4)), np.zeros((5, 4))))
