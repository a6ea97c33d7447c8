"""How often the decoder prefers the word that is true, by level of noise and by how much it heeds.

    vlv data preferences --config words.yaml
    python benchmarks/preference_signal.py own-words/final/preferences.jsonl

For files of the embedded world, whose exchanges say what the truth is. `alternatives: truth` and
many levels in words.yaml show which levels tell most. Intervals are 95%, over captions.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlv.evaluation.metrics.detection import auroc_figure
from vlv.evaluation.metrics.statistics import Bootstrap, Figure, Ratio
from vlv.training.samples.preferences import Exchange, JudgedCaption, read_preferences

LEAST_GAINS = (0.0, 0.005, 0.01, 0.02, 0.05)


@dataclass(frozen=True)
class Signal:
    """Exchanges that change how many claims are true, of captions in order."""

    captions: list[list[Exchange]]

    @classmethod
    def of(cls, captions: list[JudgedCaption]) -> "Signal":
        """Those of the judged captions of a file."""
        judged = (one.exchanges for one in captions if one.caption and not one.pair)
        return cls([[each for each in exchanges if each.truth] for exchanges in judged])

    def auroc(self, gain: Callable[[Exchange], float]) -> Figure:
        """Of exchanges that are better against those that are worse."""
        every = [(at, each) for at, many in enumerate(self.captions) for each in many]
        gains, is_better = zip(*((gain(each), better(each)) for _, each in every), strict=True)
        scored = (gains, is_better, [at for at, _ in every])
        return auroc_figure(Bootstrap(len(self.captions), 0), scored)

    def agreement(self, gain: Callable[[Exchange], float], least: float) -> tuple[Figure, float]:
        """The share of decided exchanges that the truth decides alike, and the share decided."""
        decided = [[each for each in many if abs(gain(each)) >= least] for many in self.captions]
        alike = [sum((gain(each) > 0) == better(each) for each in many) for many in decided]
        counts = np.array([len(many) for many in decided], np.float64)
        figure = Bootstrap(len(decided), 0).figure(Ratio(np.array(alike, np.float64), counts))
        return figure, counts.sum() / max(sum(map(len, self.captions)), 1)


def better(exchange: Exchange) -> bool:
    """Whether more claims are true after it."""
    return (exchange.truth or 0) > 0


def at_level(number: int) -> Callable[[Exchange], float]:
    """The gain at one level."""
    return lambda exchange: exchange.gains[number]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--levels", type=float, nargs="*", help="names of the levels, in order")
    given = parser.parse_args()
    signal = Signal.of(read_preferences(given.file))
    every = [each for many in signal.captions for each in many]
    print(f"{len(signal.captions)} captions, {len(every)} exchanges that truth decides, ", end="")
    print(f"{sum(map(better, every))} of them better")
    names = given.levels or range(len(every[0].gains))
    gains = {f"level {name}": at_level(at) for at, name in enumerate(names)}
    for name, gain in {**gains, "mean": lambda exchange: exchange.gain}.items():
        figure = signal.auroc(gain)
        print(f"{name}: AUROC {figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})")
        for least in LEAST_GAINS:
            alike, share = signal.agreement(gain, least)
            print(
                f"    least_gain {least:g}: {alike.value:.1%} alike "
                f"({alike.low:.1%} to {alike.high:.1%}), {share:.0%} decided"
            )


if __name__ == "__main__":
    main()
