"""Bradley-Terry strengths of players from games with ties (Bradley and Terry, 1952).

The chance that i beats j is exp(s_i) / (exp(s_i) + exp(s_j)); a tie is half a win for each.
"""

import numpy as np

from vlv.evaluation.metrics.statistics import Array, Figure, figure_of, scene_draws

# Each pair has one tie more than was played, so that a player who won every game has a strength.
_PRIOR_TIES = 1.0
_STEPS = 2000
_PRECISION = 1e-9


def strengths(wins: Array) -> Array:
    """Strengths with mean 0, in units of log odds: (..., P) of wins (..., P, P).

    wins[..., i, j]: how often i beat j, a tie counted as a half for both. By the
    minorization-maximization steps of Hunter (2004), from which it cannot diverge.
    """
    players = wins.shape[-1]
    others = 1 - np.eye(players)
    won = wins + _PRIOR_TIES / 2 * others
    games = won + np.swapaxes(won, -1, -2)
    worth = np.ones(wins.shape[:-1])
    for _ in range(_STEPS):
        pairs = worth[..., :, None] + worth[..., None, :]
        new = won.sum(-1) / (games / pairs).sum(-1)
        new /= np.exp(np.log(new).mean(-1, keepdims=True))
        done = np.max(np.abs(np.log(new / worth))) < _PRECISION
        worth = new
        if done:
            break
    logs: Array = np.log(worth)
    return logs - logs.mean(-1, keepdims=True)


def strength_figures(wins: Array, seed: int) -> list[Figure]:
    """A strength for each player, with intervals over images: of wins (images, P, P)."""
    draws = scene_draws(len(wins), seed)
    values = strengths(wins.sum(0))
    drawn = strengths(np.tensordot(draws, wins, 1)) if len(draws) else np.empty((0, len(values)))
    return [figure_of(value, drawn[:, at]) for at, value in enumerate(values)]
