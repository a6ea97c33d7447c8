"""Which pictures a round of self-training captions."""

from dataclasses import replace

from vlv.training.pseudo_captioning import PseudoCaptionSettings, captioned_indices


def test_no_picture_is_captioned_twice_in_a_round() -> None:
    settings = PseudoCaptionSettings(2, 100, 3, 1.0, "random", 24, seed=0, number=1)
    assert sorted(captioned_indices(9, settings)) == list(range(2, 9))
    new = replace(settings, images=3)
    rounds = [captioned_indices(9, replace(new, number=number)) for number in range(2)]
    assert len(set(rounds[0] + rounds[1])) == 6
