"""Linear probes: how well a linear map can read facts from features.

Ridge regression in closed form on principal components. A probe measures what is linearly
readable: a fact that it does not find may still be there in another form.

Shapes: n samples to learn from, m to measure on, F features, P principal components, K values of
a fact (its classes, words or numbers).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vlv.evaluation.metrics.statistics import Array, Ratio

# Of the ridge, in units of the mean square of the components.
STRENGTHS = tuple(10.0**power for power in range(-4, 5))
# The share of the training samples that selects the strength.
VALIDATION_SHARE = 0.2
# Below this share of the largest variance, a component is rounding error.
_ROUNDING = 1e-6

Kind = Literal["class", "presence", "number"]


@dataclass(frozen=True)
class Fact:
    """A fact to read. values: (n, K); a row of NaN where a sample has no such fact.

    kind: "class" where exactly one of the K values is 1, "presence" where any of them may be,
    "number" where they are numbers.
    """

    kind: Kind
    values: Array


class Components:
    """The first P principal components of features. P is the same for every source, so that a wide
    source has no advantage.
    """

    def __init__(self, features: NDArray[np.float32], count: int) -> None:
        """features: (n, F); fewer than `count` components where they have no more."""
        self._mean = features.mean(axis=0)
        centred = features - self._mean
        tall = centred.shape[0] > centred.shape[1]
        # The smaller of two matrices that have the same eigenvalues.
        square = centred.T @ centred if tall else centred @ centred.T
        values, vectors = np.linalg.eigh(square.astype(np.float64))
        kept = np.flatnonzero(values > _ROUNDING * values[-1])[::-1][:count]
        basis = vectors[:, kept] if tall else centred.T @ vectors[:, kept]
        self._basis = basis / np.linalg.norm(basis, axis=0)

    def __call__(self, features: NDArray[np.float32]) -> Array:
        """(n, P) of features (n, F)."""
        found: Array = (features - self._mean) @ self._basis
        return found


def probe(learn: Array, learn_fact: Fact, measure: Array, measure_fact: Fact) -> Ratio:
    """How well a probe that is fitted to `learn` (n, P) reads the fact from `measure` (m, P).

    The figure is 0 for what can be guessed without looking and 1 for a perfect reading:
    class, (accuracy - that of the most frequent class) / (1 - the same);
    presence, 2 x balanced accuracy - 1, with the frequencies of the samples learned from;
    number, R^2 = 1 - squared error / that of the mean of the samples learned from.
    Samples without the fact count nothing. A word that is always or never there and a number that
    never changes among the samples to learn from are left out; without any left, so is the fact.
    """
    kind = learn_fact.kind
    known = _known(learn_fact.values)
    x, y = learn[known], learn_fact.values[known]
    truth = measure_fact.values
    if kind != "class" and len(y):
        changing = y.std(axis=0) > 0
        y, truth = y[:, changing], truth[:, changing]
    there = _known(truth)
    if len(y) < 2 or not y.shape[1]:
        return Ratio(np.zeros(len(truth)), np.zeros(len(truth)))
    fitted = _fitted(x, y)
    read = fitted(measure)
    if kind == "class":
        over, under = _class_score(read, truth, y)
    elif kind == "presence":
        over, under = _presence_score(read, truth, y, fitted(x))
    else:
        over, under = _number_score(read, truth, y)
    return Ratio(np.where(there, over, 0.0), np.where(there, under, 0.0))


@dataclass(frozen=True)
class _Linear:
    """x (n, P) -> (n, K)."""

    x_mean: Array
    weights: Array
    offset: Array

    def __call__(self, x: Array) -> Array:
        found: Array = (x - self.x_mean) @ self.weights + self.offset
        return found


def _fitted(x: Array, y: Array) -> _Linear:
    """Fitted with the strength that is best on held-out samples."""
    held_out = max(1, round(VALIDATION_SHARE * len(x)))
    spread = np.where(y.std(axis=0) > 0, y.std(axis=0), 1.0)
    errors = [
        np.square((one(x[-held_out:]) - y[-held_out:]) / spread).sum()
        for one in _ridge(x[:-held_out], y[:-held_out], STRENGTHS)
    ]
    (best,) = _ridge(x, y, (STRENGTHS[int(np.argmin(errors))],))
    return best


def _ridge(x: Array, y: Array, strengths: tuple[float, ...]) -> list[_Linear]:
    """argmin_W |x W - y|^2 + strength |W|^2 for every strength, all from one decomposition."""
    x_mean, offset = x.mean(axis=0), y.mean(axis=0)
    centred = x - x_mean
    values, vectors = np.linalg.eigh(centred.T @ centred)
    values = values.clip(min=0)
    moments = vectors.T @ (centred.T @ (y - offset))
    unit = max(float(values.mean()), 1e-12)
    return [
        _Linear(x_mean, vectors @ (moments / (values + strength * unit)[:, None]), offset)
        for strength in strengths
    ]


def _class_score(read: Array, truth: Array, learned: Array) -> tuple[Array, Array]:
    most_frequent = int(learned.sum(axis=0).argmax())
    true = truth.argmax(axis=1)
    right = (read.argmax(axis=1) == true).astype(np.float64)
    guessed = (true == most_frequent).astype(np.float64)
    return right - guessed, 1 - guessed


def _presence_score(
    read: Array, truth: Array, learned: Array, read_learned: Array
) -> tuple[Array, Array]:
    # Half-way between the mean readings with the word and without it.
    present = learned == 1
    threshold = (
        np.where(present, read_learned, 0).sum(axis=0) / present.sum(axis=0)
        + np.where(present, 0, read_learned).sum(axis=0) / (~present).sum(axis=0)
    ) / 2
    share = present.mean(axis=0)
    weight = np.where(truth == 1, 0.5 / share, 0.5 / (1 - share))
    right = (read > threshold) == (truth == 1)
    return (weight * np.where(right, 1, -1)).mean(axis=1), weight.mean(axis=1)


def _number_score(read: Array, truth: Array, learned: Array) -> tuple[Array, Array]:
    variance = learned.var(axis=0)
    error = (np.square(read - truth) / variance).mean(axis=1)
    spread = (np.square(truth - learned.mean(axis=0)) / variance).mean(axis=1)
    return spread - error, spread


def _known(values: Array) -> NDArray[np.bool_]:
    known: NDArray[np.bool_] = np.logical_not(np.isnan(values).any(axis=1))
    return known
