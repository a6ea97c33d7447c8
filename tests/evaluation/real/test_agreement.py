"""Agreement of raters and strengths of captioners, by examples with known values."""

import numpy as np
import pytest

from vlv.evaluation.real.agreement import agreement, cohen_kappa, krippendorff_alpha
from vlv.evaluation.real.bradley_terry import strength_figures, strengths


def test_alpha_of_krippendorffs_example() -> None:
    """Four observers and twelve units, with gaps (Krippendorff 2011): ordinal alpha 0.815."""
    nan = np.nan
    scores = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
            [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
        ]
    )
    assert krippendorff_alpha(scores) == pytest.approx(0.815, abs=5e-4)
    assert np.isnan(krippendorff_alpha(np.full((2, 3), 4.0)))


def test_kappa_is_one_nothing_or_less() -> None:
    first = np.array([0, 1, 2, 3, 6], np.float64)
    assert cohen_kappa(first, first) == 1
    assert cohen_kappa(first, 6 - first) < 0
    # 2x2: observed agreement 0.7, by chance 0.5.
    pairs = [(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15
    a, b = np.array(pairs, np.float64).T
    assert cohen_kappa(a, b) == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    assert np.isnan(cohen_kappa(np.ones(3), np.ones(3)))


def test_only_what_two_raters_rated_is_counted() -> None:
    ratings = {
        "ann": {("1.png", "x"): 6, ("2.png", "x"): 3, ("3.png", "x"): 0},
        "bo": {("2.png", "x"): 3, ("3.png", "x"): 1},
    }
    figures, count = agreement(ratings, ["ann", "bo"], 0)
    assert count == 2
    assert figures["equal_share"].value == 0.5 and figures["within_one"].value == 1
    assert agreement({"ann": ratings["ann"], "cy": {}}, ["ann", "cy"], 0)[1] == 0


def test_strengths_are_log_odds_of_wins() -> None:
    wins = np.array([[0, 29.5], [9.5, 0]])  # and one tie more: 30 to 10
    assert strengths(wins) == pytest.approx([np.log(3) / 2, -np.log(3) / 2], abs=1e-6)
    # Wins as strengths give them are found again, whatever the number of players.
    true = np.array([1.0, 0.2, -0.3, -0.9])
    chance = 1 / (1 + np.exp(true[None, :] - true[:, None]))
    many = 1e7 * chance * (1 - np.eye(4))
    assert strengths(many) == pytest.approx(true, abs=1e-4)


def test_intervals_of_strengths_are_those_of_log_odds_and_a_perfect_player_is_finite() -> None:
    won = np.arange(300) < 210
    wins = np.zeros((300, 2, 2))
    wins[:, 0, 1], wins[:, 1, 0] = won, ~won
    first, second = strength_figures(wins, 0)
    assert first.value == pytest.approx(np.log(210.5 / 90.5) / 2)
    width = 1.96 * np.sqrt(1 / 210 + 1 / 90) / 2
    assert first.high - first.low == pytest.approx(2 * width, rel=0.1)
    assert second.low == pytest.approx(-first.high)
    wins[:, 0, 1], wins[:, 1, 0] = 1, 0
    assert all(
        np.isfinite([one.value, one.low, one.high]).all() for one in strength_figures(wins, 0)
    )
