"""Marks and their calibration, from evidence whose truth is known."""

import numpy as np
import pytest
import torch

from vlv.errors import ConfigError
from vlv.verification.evidence import SentenceEvidence
from vlv.verification.scorer import VerifySettings
from vlv.verification.verdicts import Change
from vlv.verification.verifier import Verifier


def evidence(gain: float) -> SentenceEvidence:
    changes = (Change(0, 0, 1, "b", (gain,)), Change(0, 0, 1, "", (0.9,)))
    return SentenceEvidence("A.", 0, 2, changes)


@pytest.fixture(scope="module")
def fitted() -> Verifier:
    rng = np.random.default_rng(0)
    true = rng.exponential(0.01, 4000)
    false = rng.exponential(0.2, 1000)
    return Verifier.fit(
        torch.randn(3, 4, 5),
        [[evidence(value)] for value in (*true, *false)],
        [[True]] * 4000 + [[False]] * 1000,
        VerifySettings(),
    )


def test_as_many_true_sentences_are_flagged_as_was_asked_for(fitted: Verifier) -> None:
    fresh = np.random.default_rng(1).exponential(0.01, 2000)
    for rate in (0.01, 0.05, 0.2):
        marks = fitted.marks([evidence(value) for value in fresh], rate)
        flagged = np.mean([not one.supported for one in marks])
        assert flagged == pytest.approx(rate, abs=0.02)


def test_probabilities_are_shares_of_true_sentences(fitted: Verifier) -> None:
    rng = np.random.default_rng(2)
    values = np.concatenate([rng.exponential(0.01, 4000), rng.exponential(0.2, 1000)])
    true = np.arange(5000) < 4000
    stated = np.array([one.probability for one in fitted.marks([evidence(v) for v in values])])
    assert stated.mean() == pytest.approx(0.8, abs=0.03)
    for low, high in ((0.0, 0.3), (0.3, 0.9), (0.9, 1.01)):
        inside = (stated >= low) & (stated < high)
        assert true[inside].mean() == pytest.approx(stated[inside].mean(), abs=0.1)


def test_more_gain_is_never_more_support(fitted: Verifier) -> None:
    marks = fitted.marks([evidence(gain) for gain in (-0.1, 0.0, 0.001, 0.02, 0.5, 3.0)])
    for name in ("score", "alarm_rate", "probability"):
        values = [getattr(one, name) for one in marks]
        assert values == sorted(values, reverse=True)
    assert marks[0].supported and not marks[-1].supported
    assert marks[0].better is None and marks[-1].better is not None


def test_a_sentence_left_out_counts_where_no_word_could_be_exchanged(fitted: Verifier) -> None:
    only = SentenceEvidence("A.", 0, 2, (Change(0, 0, 2, "", (0.9,)),))
    assert only.gain == pytest.approx(0.9)
    assert evidence(0.2).gain == pytest.approx(0.2)
    assert fitted.marks([SentenceEvidence("A.", 0, 2, ())])[0].supported


def test_a_rate_outside_of_0_to_1_and_too_few_true_sentences_are_refused(fitted: Verifier) -> None:
    with pytest.raises(ConfigError, match="0 to 1"):
        fitted.marks([], 1.5)
    with pytest.raises(ConfigError, match="too few"):
        Verifier.fit(torch.zeros(1, 1, 1), [[evidence(0.1)]] * 9, [[True]] * 9, VerifySettings())
