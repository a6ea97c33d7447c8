"""How often true sentences have as much evidence against them: conformal, over whole pictures.

The sentences of a caption are not independent: one error in it can raise the evidence against all
of them, and so can a picture that is hard to draw, in all its captions. So the pictures, not the
sentences, are what is exchangeable, and conformal risk control (arXiv 2208.02814) is applied to the
false alarms of a picture's captions beyond their allowed share. With n pictures whose captions hold
M true sentences, at most K those of one picture, and F of them marked, a threshold is valid at the
rate a if F - a M + (1 - a) K <= 0, that is if (F + K) / (M + K) <= a: the expected number of false
alarms of a new picture is then at most a times that of its true sentences. Related: arXiv
2504.01225 controls the risk of word-level marks of CLIPScore in the same way, word by word.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

# Points of the distribution of gains that are kept.
_POINTS = 401
# Smaller gains are noise.
_LEAST = 1e-3


@dataclass(frozen=True)
class Calibration:
    """gains: of true sentences, quantiles at equal steps from 0 to 1. true: their number. most: of
    them of one picture; 0 gives plain shares, without a correction for few pictures.
    """

    gains: tuple[float, ...]
    true: int
    most: int

    @classmethod
    def of(cls, pictures: Sequence[Sequence[float]]) -> "Calibration":
        """From the gains of the true sentences of each picture's captions."""
        gains = [gain for picture in pictures for gain in picture]
        points = np.quantile(gains, np.linspace(0, 1, _POINTS), method="inverted_cdf")
        return cls(tuple(points.tolist()), len(gains), max(map(len, pictures)))

    def alarm_rate(self, gain: float) -> float:
        """The rate of false alarms of a threshold at this gain, at most."""
        # Of n + 1 points of a distribution, a share s of it reaches at least n s.
        above = len(self.gains) - bisect_left(self.gains, gain)
        share = min(1.0, above / (len(self.gains) - 1))
        return (share * self.true + self.most) / (self.true + self.most)


def log_odds(gain: ArrayLike, intercept: float, slope: float) -> NDArray[np.float64]:
    """That a sentence of this gain is true."""
    return np.asarray(intercept - slope * _logarithm(gain))


def fit_log_odds(gain: NDArray[np.float64], true: NDArray[np.bool_]) -> tuple[float, float]:
    """Intercept and slope of the log-odds of `true` by the logarithm of the gain, by likelihood; a
    faint pull towards 0 keeps them finite where the two kinds do not overlap.
    """
    signs = np.where(true, 1.0, -1.0)
    x = _logarithm(gain)

    def loss(line: NDArray[np.float64]) -> float:
        odds = signs * (line[0] - line[1] * x)
        return float(np.logaddexp(0, -odds).sum() + 0.01 * (line**2).sum())

    intercept, slope = minimize(loss, np.zeros(2)).x
    return float(intercept), float(slope)


def probability(odds: float) -> float:
    """Of log-odds."""
    return 1 / (1 + math.exp(-odds))


def _logarithm(gain: ArrayLike) -> NDArray[np.float64]:
    return np.log(np.maximum(gain, _LEAST))
