"""CIDEr, BLEU and ROUGE-L: figures are those of pycocoevalcap, from words that Java would split."""

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from vlv.evaluation.metrics.caption_overlap import overlap, words_of

CAPTIONS = [
    "A tabby cat looks to the left.",
    "A cup of coffee and a spoon on a saucer, seen from above.",
    "A rocket.",
    "Nothing of the kind",
]
REFERENCES = [
    ["A tabby cat looks to the left.", "A close view of a tabby cat's face."],
    ["A cup of coffee stands on a saucer with a spoon."],
    ["A rocket stands on its launch pad at dusk.", "A rocket at dusk.", "The rocket"],
    ["A man looks through a camera on a tripod."],
]


def test_a_whole_set_scores_as_in_pycocoevalcap() -> None:
    own = {at: [" ".join(words_of(text))] for at, text in enumerate(CAPTIONS)}
    known = {
        at: [" ".join(words_of(text)) for text in texts] for at, texts in enumerate(REFERENCES)
    }
    statistics = overlap(CAPTIONS, REFERENCES).statistics()
    ones = np.ones((1, len(CAPTIONS)))
    found = {name: statistic(ones)[0] for name, statistic in statistics.items()}
    bleu, _ = Bleu(4).compute_score(known, own, verbose=0)
    expected = {f"bleu_{order}": value for order, value in enumerate(bleu, start=1)}
    expected["cider"] = Cider().compute_score(known, own)[0]
    expected["rouge_l"] = Rouge().compute_score(known, own)[0]
    assert found == pytest.approx(expected, rel=1e-9)
    assert found["cider"] > 0 and found["bleu_4"] > 0


def test_a_resample_scores_as_the_set_that_it_draws() -> None:
    drawn = [0, 0, 1, 2]
    weights = np.bincount(drawn, minlength=len(CAPTIONS)).astype(float)[None]
    one = overlap(CAPTIONS, REFERENCES).statistics()["bleu_2"](weights)[0]
    again = overlap([CAPTIONS[at] for at in drawn], [REFERENCES[at] for at in drawn])
    assert one == pytest.approx(again.statistics()["bleu_2"](np.ones((1, 4)))[0], rel=1e-9)


# What Stanford's PTBTokenizer 3.4.1 with -lowerCase prints, without the punctuation that
# pycocoevalcap drops.
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "The man doesn't wear a hat; he's holding a red-and-white umbrella.",
            "the man does n't wear a hat he 's holding a red-and-white umbrella",
        ),
        (
            'A sign reads "STOP" at 5:30 p.m., near the U.S. flag.',
            "a sign reads stop at 5:30 p.m. near the u.s. flag",
        ),
        (
            "Two T-shirts (one blue, one green) hang on the wall...",
            "two t-shirts -lrb- one blue one green -rrb- hang on the wall",
        ),
        ("It costs $3.50, i.e. 50% off!", "it costs $ 3.50 i.e. 50 % off"),
        (
            "The cat's eyes are half-closed -- it can't sleep.",
            "the cat 's eyes are half-closed it ca n't sleep",
        ),
        ("Mr. Smith's black & white collie, sits.", "mr. smith 's black & white collie sits"),
        ("Ein Mädchen im grünen Kleid", "ein mädchen im grünen kleid"),
        ("", ""),
    ],
)
def test_words_are_split_as_java_splits_them(text: str, words: str) -> None:
    assert " ".join(words_of(text)) == words
