"""The least that a mini model must reach to be shipped, and what it reaches."""

from dataclasses import dataclass

from vlv.evaluation.conditions import CONTROLS
from vlv.evaluation.metrics.pictures import PictureJudge, PictureScores
from vlv.evaluation.metrics.statistics import Figure


@dataclass(frozen=True)
class Floor:
    """A demand, the figure it is made of, and the least value that meets it."""

    name: str
    figure: Figure
    least: float

    @property
    def met(self) -> bool:
        """Whether the value itself, not its interval, reaches the floor; NaN does not."""
        return self.figure.value >= self.least


def mini_floors(
    judge: PictureJudge,
    scores: dict[str, PictureScores],
    captions: dict[str, dict[str, Figure]],
) -> list[Floor]:
    """The floors that these measurements speak of."""
    found = [
        Floor("inspector on true renders, F1", judge.figure("f1", scores["renders"]), 0.95),
        Floor("VAE round trip, PSNR in dB", judge.figure("psnr", scores["vae"]), 29.0),
    ]
    if "embeddings" in scores:
        mine = scores["embeddings"]
        gains = [judge.difference("f1", mine, scores[name]) for name in CONTROLS]
        texts = judge.difference("centre_error", scores["true-captions"], mine)
        found += [
            Floor("F1 from embeddings above the best control", min(gains, key=_value), 0.3),
            Floor("centre error from true captions above that from embeddings", texts, 0.0),
        ]
    if "generated" in captions:
        mine_told = captions["generated"]
        found += [
            Floor("recall of objects in captions", mine_told["object_recall"], 0.85),
            Floor("precision of claims in captions", mine_told["precision"], 0.85),
            Floor("captions that end by themselves", mine_told["ended"], 0.99),
        ]
    return found


def _value(figure: Figure) -> float:
    return figure.value
