"""Which sentences the captions of training could say: words, ends, order, and bounds of tails."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from vlv.pipeline import VLV
from vlv.verification.sentence_ood import Likelihood, SentenceDetector, tail_bound
from vlv.verification.verifier import Verifier

CAPTIONS = [
    f"A {size} {color} {shape} stands there. The floor is {color}."
    for size in ("large", "small")
    for color in ("red", "blue", "green")
    for shape in ("cube", "cone", "sphere")
] * 3


class Reader:
    """Finds every sentence as likely as it is asked to; stands in for the caption decoder."""

    def __init__(self, *values: float) -> None:
        self.found = Likelihood(torch.tensor(values), tuple(f"word{at}" for at in range(9)))

    def read(self, *asked: object) -> Likelihood:
        return self.found


@pytest.fixture(scope="module")
def detector() -> SentenceDetector:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(-rng.exponential(0.5, (2000, 8)))
    return SentenceDetector.fit(CAPTIONS, [Likelihood(one, ()) for one in values])


LIKELY = Reader(-0.1, -0.2, -0.3)


@pytest.mark.parametrize(
    ("sentence", "why"),
    [
        ("A large red cube stands there.", None),
        ("A giraffe eats pizza.", '"giraffe", "eats", "pizza"'),
        ("A large red pyramid stands there.", '"pyramid"'),
        ("A large red cube stands there", 'ends with "there"'),
        ("Cube stands there.", 'begins with "cube"'),
        ("🔴.", '"🔴"'),
        ("A " + "red " * 30 + "cube stands there.", "longer"),
    ],
)
def test_words_and_ends_are_those_of_the_captions(
    detector: SentenceDetector, sentence: str, why: str | None
) -> None:
    (reason,) = detector.reasons(sentence, LIKELY)
    assert reason is None if why is None else reason is not None and why in reason


def test_a_single_unlikely_word_is_enough_and_is_named(detector: SentenceDetector) -> None:
    (reason,) = detector.reasons("The floor is red.", Reader(-0.1, -30.0, -0.1))
    assert reason is not None and '"word1"' in reason


def test_words_in_a_new_order_have_to_be_likelier(detector: SentenceDetector) -> None:
    settings = detector.settings
    assert settings.least < settings.new_least < settings.new_mean < 0
    between = Reader(-0.1, (settings.least + settings.new_least) / 2)
    assert detector.reasons("The floor is red.", between) == [None]
    assert detector.reasons("A red cube stands there.", between) != [None]
    assert detector.reasons("A red cube stands there.", LIKELY) == [None]
    low = Reader(*[(settings.new_least + settings.new_mean) / 2] * 9)
    assert detector.reasons("A red cube stands there.", low) != [None]


def test_each_sentence_has_its_own_reason(detector: SentenceDetector) -> None:
    caption = "The floor is red. Paris is in France. A small red cone stands there."
    first, second, third = detector.reasons(caption, LIKELY)
    assert first is None and third is None
    assert second is not None and "paris" in second


def test_captions_of_many_words_allow_some_that_are_new() -> None:
    rng = np.random.default_rng(0)
    words = [f"w{int(n)}" for n in rng.zipf(1.4, 4000) % 3000]
    captions = [" ".join(words[at : at + 8]) + "." for at in range(0, 4000, 8)]
    detector = SentenceDetector.fit(captions, [Likelihood(torch.zeros(3), ())])
    assert 0.1 < detector.settings.unknown < 0.9
    assert detector.reasons(captions[0][:-1] + " new.", Reader(0.0)) == [None]


def test_a_tail_goes_on_as_it_begins() -> None:
    values = np.random.default_rng(1).exponential(2.0, 4000)
    assert tail_bound(values, 0.001) == pytest.approx(2 * math.log(1000), rel=0.1)
    assert tail_bound([3.0] * 100, 0.001) == 3.0


def test_it_is_saved_with_the_verifier_and_missed_in_an_older_one(
    detector: SentenceDetector, tmp_path: Path
) -> None:
    verifier = VLV.from_pretrained("vlv-mini").verifier
    assert verifier is not None and verifier.sentences is not None
    Verifier.save(verifier, tmp_path / "new")
    again = Verifier.load(tmp_path / "new")
    assert again.sentences is not None
    assert again.sentences.settings == verifier.sentences.settings
    (tmp_path / "new" / "vlv_sentences.json").unlink()
    assert Verifier.load(tmp_path / "new").sentences is None
