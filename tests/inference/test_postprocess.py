"""Whole sentences, each once; by default only where a caption was cut off."""

import pytest

from vlv.inference.postprocess import (
    Cleaning,
    drop_repeated_sentences,
    drop_unfinished_sentence,
    surround,
)
from vlv.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('He said "stop." Then (he left.) And 3.5 m on', None),
        ("", []),
        ("  A.\n\nB.  ", ["A.", "B."]),
    ],
)
def test_sentences_are_found(text: str, sentences: list[str] | None) -> None:
    found = split_sentences(text)
    assert found == (sentences or found)
    assert " ".join(found) == " ".join(text.split())


def test_closing_quotes_and_decimals() -> None:
    text = 'A sign says "stop." It is (almost) 3.5 m high (or more.) Behind it'
    assert split_sentences(text) == [
        'A sign says "stop."',
        "It is (almost) 3.5 m high (or more.)",
        "Behind it",
    ]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("A cube stands here. The floor is", "A cube stands here."),
        ("A cube stands here. The floor is gray.", "A cube stands here. The floor is gray."),
        ('It says "go." The fl', 'It says "go."'),
        ("A cube that never ends and", "A cube that never ends and"),
        ("", ""),
    ],
)
def test_unfinished_last_sentence_is_dropped(text: str, kept: str) -> None:
    assert drop_unfinished_sentence(text) == kept


def test_repeated_sentences_are_dropped_wherever_they_stand() -> None:
    text = "The floor is gray. A cube stands. the floor  is gray. A cone stands. A cube stands."
    assert drop_repeated_sentences(text) == "The floor is gray. A cube stands. A cone stands."


CUT = "It is red. It is red. It is"


@pytest.mark.parametrize(
    ("cleaning", "ended", "result"),
    [
        (Cleaning(), False, "It is red."),
        (Cleaning(), True, CUT),
        (Cleaning(True, False), True, "It is red. It is red."),
        (Cleaning(False, True), True, "It is red. It is"),
        (Cleaning(False, False), False, CUT),
    ],
)
def test_switches(cleaning: Cleaning, ended: bool, result: str) -> None:
    assert cleaning.apply(CUT, ended) == result


def test_captions_are_one_line() -> None:
    assert Cleaning().apply(" One.\nTwo.\r\n\tThree. ", ended=True) == "One. Two. Three."


def test_surround() -> None:
    assert surround("a cube", "ohwx,", "high detail ") == "ohwx, a cube high detail"
    assert surround("a cube") == "a cube"
    assert surround("a cube", "one\ntwo ", "\n") == "one two a cube"
