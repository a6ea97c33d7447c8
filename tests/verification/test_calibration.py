"""Alarm rates of gains, calibrated on whole captions."""

import numpy as np
import pytest

from vlv.verification.calibration import Calibration


def captions(rng: np.random.Generator, count: int) -> list[list[float]]:
    """Gains of one to four true sentences, all larger in captions that hold an error."""
    return [
        list(rng.exponential(0.1 if rng.random() < 0.2 else 0.01, rng.integers(1, 5)))
        for _ in range(count)
    ]


def false_alarms(fitted: Calibration, fresh: list[list[float]], rate: float) -> float:
    gains = [gain for caption in fresh for gain in caption]
    return float(np.mean([fitted.alarm_rate(gain) <= rate for gain in gains]))


def test_the_rate_holds_on_average_over_calibrations_of_few_captions() -> None:
    rng = np.random.default_rng(0)
    fresh = captions(rng, 3000)
    found = [false_alarms(Calibration.of(captions(rng, 60)), fresh, 0.1) for _ in range(60)]
    assert 0.05 < np.mean(found) <= 0.1


def test_of_many_captions_the_rate_is_met() -> None:
    rng = np.random.default_rng(1)
    fitted, fresh = Calibration.of(captions(rng, 3000)), captions(rng, 3000)
    for rate in (0.02, 0.05, 0.2):
        assert false_alarms(fitted, fresh, rate) == pytest.approx(rate, abs=0.012)


def test_few_captions_alarm_at_no_rate_that_they_cannot_show() -> None:
    fitted = Calibration.of([[0.01, 0.02], [0.03]])
    assert (fitted.true, fitted.most) == (3, 2)
    assert fitted.alarm_rate(1.0) == pytest.approx(2 / 5)
    assert fitted.alarm_rate(0.0) == 1


def test_the_points_that_are_kept_promise_no_fewer_alarms_than_there_are() -> None:
    gains = np.sort(np.random.default_rng(2).exponential(0.01, 1000)).tolist()
    plain = Calibration.of([[gain] for gain in gains])
    for at, gain in enumerate(gains):
        exact = (1000 - at + 1) / (1000 + 1)
        assert exact - 1e-12 <= plain.alarm_rate(gain) < exact + 0.003


def test_without_a_correction_it_is_the_share_of_gains() -> None:
    plain = Calibration(tuple(np.linspace(0, 1, 101)), true=100, most=0)
    assert plain.alarm_rate(0.951) == pytest.approx(0.05, abs=0.01)
    assert plain.alarm_rate(2.0) == 0
