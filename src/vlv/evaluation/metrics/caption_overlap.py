"""Captions against references: CIDEr, BLEU and ROUGE-L by the scorers of pycocoevalcap.

The scorers get text that `words_of` has split. The original tokenizer is a Java program; what ours
does otherwise is in the page on captions of real images. Published CIDEr weighs n-grams by the
references of all of COCO's validation images; here they are the references of the given images, so
values depend on the set, and only values of one set are compared.

Shapes: n images with a caption and one or more references each.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlv.errors import ConfigError
from vlv.evaluation.metrics.statistics import Array, Statistic, mean_of

try:
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
except ImportError as error:
    raise ConfigError(
        "CIDEr, BLEU and ROUGE-L need pycocoevalcap; install it with: pip install 'vlv[eval]'"
    ) from error

ORDERS = 4
_WORD = re.compile(
    r"""
    https?://\S*[\w/]                           # an address
    | -[lr]rb-                                  # a bracket
    | n't\b | '(?:s|m|d|ll|re|ve)\b             # the end of a contraction
    | (?:(?<=\s)-)?(?:\d+(?:[.,:/]\d+)+|\.\d+)  # a number
    | \b(?:mrs?|ms|dr|st|jr|sr|etc|inc|co|vs|no)\.  # an abbreviation
    | \w\.(?:\w\.)+                             # initials
    | \w+(?:[-_./&@]\w+)*                       # a word
    | [$%&#@+=*/°£€]                            # a sign that counts as a word
    """,
    re.VERBOSE,
)
# The original drops brackets by the names that they have in upper case, so that it keeps these.
_BRACKETS = str.maketrans({"(": " -lrb- ", ")": " -rrb- "})
_NEGATION = re.compile(r"(?<=\w)n['\u2019]t\b")
_CLITIC = re.compile(r"(?<=\w)['\u2019](s|m|d|ll|re|ve)\b")
_JOINED = {"cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na"}
_JOINED_WORD = re.compile(r"\b(" + "|".join(_JOINED) + r")\b")


def words_of(text: str) -> list[str]:
    """The words of a text as the Penn Treebank splits them, in lower case, without punctuation."""
    text = _NEGATION.sub(" n't", " ".join(text.lower().translate(_BRACKETS).split()))
    text = _CLITIC.sub(r" '\1", text)
    return _WORD.findall(_JOINED_WORD.sub(lambda found: _JOINED[found[1]], text))


@dataclass(frozen=True)
class Overlap:
    """Scores of n captions. bleu_counts: matched and all n-grams of each order, and the lengths of
    the caption and of the closest reference (n, 2 * ORDERS + 2); BLEU is a figure of a whole set.
    """

    cider: Array
    rouge_l: Array
    bleu_counts: Array

    def statistics(self) -> dict[str, Statistic]:
        """Name -> the figure of any selection of the images."""
        return {
            "cider": _mean(self.cider),
            **{f"bleu_{order}": _bleu(self.bleu_counts, order) for order in range(1, ORDERS + 1)},
            "rouge_l": _mean(self.rouge_l),
        }


def overlap(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Overlap:
    """Compare each caption with the references of its image: one or more."""
    own = {at: [_split(text)] for at, text in enumerate(captions)}
    known = {at: [_split(text) for text in texts] for at, texts in enumerate(references)}
    _, cider = Cider().compute_score(known, own)
    _, rouge = Rouge().compute_score(known, own)
    return Overlap(
        np.asarray(cider, dtype=np.float64),
        np.asarray(rouge, dtype=np.float64),
        _bleu_counts(own, known),
    )


def _split(text: str) -> str:
    return " ".join(words_of(text))


def _bleu_counts(own: dict[int, list[str]], known: dict[int, list[str]]) -> Array:
    scorer = BleuScorer(n=ORDERS)
    for at in own:
        scorer += (own[at][0], known[at])
    return np.array(
        [
            [
                *one["correct"],
                *one["guess"],
                one["testlen"],
                min(one["reflen"], key=lambda length: (abs(length - one["testlen"]), length)),
            ]
            for one in scorer.ctest
        ],
        dtype=np.float64,
    )


def _mean(values: Array) -> Statistic:
    ratio = mean_of(values)
    return lambda weights: (weights @ ratio.over) / (weights @ ratio.under)


def _bleu(counts: Array, order: int) -> Statistic:
    """BLEU of sums over the drawn images: the geometric mean of the precisions up to this order,
    times the penalty for brevity. The small constants are pycocoevalcap's.
    """

    def statistic(weights: Array) -> Array:
        sums = weights @ counts
        matched, all_of = sums[:, :order], sums[:, ORDERS : ORDERS + order]
        precision = ((matched + 1e-15) / (all_of + 1e-9)).prod(1) ** (1 / order)
        ratio = (sums[:, -2] + 1e-15) / (sums[:, -1] + 1e-9)
        penalty: Array = np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0)
        return precision * penalty

    return statistic
