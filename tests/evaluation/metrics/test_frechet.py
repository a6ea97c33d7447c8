"""FID and KID by torchmetrics on given features, and the intervals of both."""

import math
import sys

import numpy as np
import pytest
import scipy.linalg

from vlv.errors import ConfigError
from vlv.evaluation.metrics.frechet import Distance, FrechetBootstrap, fid, kid
from vlv.evaluation.metrics.statistics import Array, frechet_distance


def features(seed: int, count: int = 300, width: int = 12, shift: float = 0.0) -> Array:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width))
    return rng.normal(size=(count, width)) @ mixing + shift


class TestFID:
    def test_is_the_published_formula(self) -> None:
        """As the reference implementations compute it: with the matrix's square root."""
        a, b = features(0), features(1, shift=0.3)
        first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
        root = scipy.linalg.sqrtm(first @ second).real
        gap = a.mean(0) - b.mean(0)
        expected = gap @ gap + np.trace(first + second - 2 * root)
        assert fid(a, b) == pytest.approx(expected, abs=1e-3)
        assert frechet_distance(b, a) == pytest.approx(fid(a, b), abs=1e-3)

    def test_with_fewer_images_than_features_both_ways_agree(self) -> None:
        a, b = features(0, 20, 40), features(1, 20, 40)
        assert fid(a, b) == pytest.approx(frechet_distance(b, a), abs=1e-3)
        assert fid(a, a) == pytest.approx(0, abs=1e-3)

    def test_of_a_single_image_is_unknown(self) -> None:
        one, other = features(0, 1), features(1, 1)
        assert math.isnan(fid(one, other))
        found = FrechetBootstrap(one, seed=0).distance(other).figure()
        assert math.isnan(found.value) and math.isnan(found.low)

    def test_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
        with pytest.raises(ConfigError, match=r"pip install 'vlv\[images\]'"):
            fid(features(0), features(1))


class TestIntervals:
    def test_resamples_are_distances_of_the_images_drawn(self) -> None:
        true, drawn = features(0, 50, 5), features(1, 50, 5)
        found = FrechetBootstrap(true, seed=3, resamples=4).distance(drawn)
        draws = np.random.default_rng(3).integers(50, size=(4, 50))
        expected = [frechet_distance(drawn[draw], true[draw]) for draw in draws]
        assert found.resampled == pytest.approx(expected)

    def test_sets_are_compared_over_the_same_draws(self) -> None:
        true, near = features(0), features(1, shift=0.2)
        far = near + 1.0
        found = FrechetBootstrap(true, seed=0, resamples=50).distances({"near": near, "far": far})
        difference = found["far"].minus(found["near"])
        alone = found["far"].figure()
        assert difference.low > 0
        assert difference.high - difference.low < alone.high - alone.low

    def test_they_are_as_wide_as_values_of_other_images_spread(self) -> None:
        found = [
            FrechetBootstrap(features(2 * at, 200, 6), at, resamples=40)
            .distance(features(2 * at + 1, 200, 6, shift=0.5))
            .figure()
            for at in range(24)
        ]
        spread = np.std([one.value for one in found])
        half = np.mean([one.high - one.low for one in found]) / 2 / 1.96
        assert half == pytest.approx(spread, rel=0.4)

    @pytest.mark.parametrize("resamples", [0, 1])
    def test_none_without_resamples(self, resamples: int) -> None:
        bootstrap = FrechetBootstrap(features(0), 0, resamples=resamples)
        figure = bootstrap.distance(features(1)).figure()
        assert math.isnan(figure.low) and figure.value > 0

    def test_the_mean_of_several_sets_keeps_the_draws(self) -> None:
        mean = Distance.mean([Distance(1.0, np.array([1.0, 3.0])), Distance(3.0, np.zeros(2))])
        assert mean.value == 2 and mean.resampled == pytest.approx([0.5, 1.5])


class TestKID:
    def test_is_the_mean_of_the_unbiased_estimate(self) -> None:
        a, b = features(0, 200, 4), features(1, 200, 4, shift=0.8)

        def kernel(x: Array, y: Array) -> Array:
            found: Array = (x @ y.T / 4 + 1) ** 3
            return found

        def others(matrix: Array) -> float:
            return float((matrix.sum() - np.trace(matrix)) / (200 * 199))

        expected = others(kernel(a, a)) + others(kernel(b, b)) - 2 * kernel(a, b).mean()
        found = kid(a, b, seed=0)
        assert found.value == pytest.approx(expected, rel=0.1)
        assert found.low < expected < found.high
        assert kid(a, b, seed=0) == found

    def test_the_interval_is_as_wide_as_values_of_other_images_spread(self) -> None:
        found = [
            kid(features(2 * at, 60, 3), features(2 * at + 1, 60, 3, 1.0), 0) for at in range(24)
        ]
        spread = np.std([one.value for one in found])
        half = np.mean([one.high - one.low for one in found]) / 2 / 1.96
        assert half == pytest.approx(spread, rel=0.5)

    def test_nothing_can_be_said_of_three_images(self) -> None:
        assert math.isnan(kid(features(0, 3), features(1, 3), 0).value)
