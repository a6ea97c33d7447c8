"""The normalization and the accuracy of VQA, by the examples of its description."""

from itertools import combinations

import pytest

from vlv.evaluation.real.vqa_accuracy import accuracy, normalized


@pytest.mark.parametrize(
    ("answer", "compared"),
    [
        ("Frisbee", "frisbee"),
        ("no.", "no"),
        ("3.5", "3.5"),
        ("p.m.", "pm"),
        ("zero", "0"),
        ("Two", "2"),
        ("ten dogs", "10 dogs"),
        ("none", "0"),
        ("eleven", "eleven"),
        ("a dog", "dog"),
        ("An apple on the table", "apple on table"),
        ("dont", "don't"),
        ("couldnt", "couldn't"),
        ("couldntve", "couldn't've"),
        ("Im", "i'm"),
        ("oclock", "o'clock"),
        ("well", "well"),
        ("girl's", "girl's"),
        ("don\u2019t", "don't"),
        ("2:50 pm", "2:50 pm"),
        ("100,978", "100978"),
        ("red, white", "red white"),
        ("red/white", "red white"),
        ("black-and-white", "black and white"),
        ("yes!", "yes"),
        ("(left)", "left"),
        ("  red\n ball\t", "red ball"),
        ("", ""),
        ("the", ""),
    ],
)
def test_answers_are_compared_as_described(answer: str, compared: str) -> None:
    assert normalized(answer) == compared
    assert normalized(compared) == compared


@pytest.mark.parametrize("same", range(11))
@pytest.mark.parametrize("count", [3, 10])
def test_the_accuracy_is_the_mean_over_all_sets_without_one_person(same: int, count: int) -> None:
    if same > count:
        same = count
    given = ["Two"] * same + ["3"] * (count - same)
    subsets = list(combinations(given, count - 1))
    expected = sum(min(one.count("Two") / 3, 1) for one in subsets) / len(subsets)
    assert accuracy("2", given) == pytest.approx(expected)
    assert accuracy("the two", given) == accuracy("2", given)


def test_three_people_are_not_quite_right_and_four_are() -> None:
    assert [round(accuracy("red", ["red"] * n + ["blue"] * (10 - n)), 1) for n in range(6)] == [
        *(0, 0.3, 0.6, 0.9, 1, 1)
    ]
    assert accuracy("red", []) == 0


def test_the_only_answer_is_right() -> None:
    assert accuracy("Red.", ["red"]) == 1
    assert accuracy("blue", ["red"]) == 0
