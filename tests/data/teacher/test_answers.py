"""What is a caption, and what a teacher sends in place of one."""

from datetime import UTC, datetime

import pytest

from vlv.data.teacher.answers import caption_in, problem_with
from vlv.data.teacher.request import INSTRUCTION
from vlv.endpoints.endpoint import Answer, retry_after

GOOD = (
    "A street market in the late afternoon. On the left, a woman in a green coat weighs oranges on "
    "a brass scale, while two children wait beside a wooden crate of apples. Behind them, striped "
    "awnings throw long shadows over wet cobblestones, and a dog sleeps under a table on the right."
)


@pytest.mark.parametrize(
    ("text", "finish", "problem"),
    [
        (GOOD, "stop", None),
        (GOOD, "length", "truncated"),
        (GOOD, "content_filter", "refusal"),
        ("", "stop", "empty"),
        (" ... ", "stop", "empty"),
        ("I'm sorry, but I can't help with that.", "stop", "refusal"),
        ("I\u2019m unable to view images directly.", "stop", "refusal"),
        ("I cannot assist with this request.", "stop", "refusal"),
        ("Unfortunately, I do not see an image attached.", "stop", "refusal"),
        ("Sorry, I can't describe people.", "stop", "refusal"),
        ("Please upload the image you would like me to describe.", "stop", "refusal"),
        (GOOD + " a red ball on the left of a blue cube," * 20, "stop", "repetition"),
        ("a red ball, " * 100, "length", "repetition"),
        (INSTRUCTION, "stop", "echo"),
        ("My task: " + INSTRUCTION[100:320], "stop", "echo"),
        (
            "Eine rote Kugel liegt neben einem blauen Würfel auf dem braunen Boden.",
            "stop",
            "language",
        ),
        ("木の床の上に赤いボールと青い立方体が並んで置かれている。", "stop", "language"),
        # What is right, and looks a little like those.
        ("A red ball.", "stop", None),
        ("A café on a corner.", "stop", None),
        ("Sorry! is the title of the board game on the table.", "stop", None),
        ("I see a red ball on a brown floor beside a small cube.", "stop", None),
        ("A sign says: I can't help falling in love. Two people dance below it.", "stop", None),
        ("A red ball, a blue ball, a red cube, a blue cube and a red cone.", "stop", None),
        (
            "A small red ball is left of a large blue cube. A small green ball is right of a large "
            "blue cone. A small gray ball is behind a large red cube. A small cyan ball is in "
            "front of a large green cone.",
            "stop",
            None,
        ),
    ],
)
def test_problems(text: str, finish: str, problem: str | None) -> None:
    assert problem_with(Answer(text, finish), INSTRUCTION) == problem


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("A red ball.", "A red ball."),
        ("  A red\n\nball.  ", "A red ball."),
        ("Here is a detailed caption of the image:\n\nA red ball.", "A red ball."),
        ("Sure! Here's the caption: A red ball.", "A red ball."),
        ("**Caption:** A red ball.", "A red ball."),
        ("# Scene\n\n- A **red** ball.\n- A cube.", "Scene A red ball. A cube."),
        ('"A red ball."', "A red ball."),
        ("'A dog's red ball.'", "A dog's red ball."),
        ("Sure! \u201cA red ball.\u201d", "A red ball."),
        ('A sign that reads "Stop."', 'A sign that reads "Stop."'),
        ('"Welcome" stands on a mat.', '"Welcome" stands on a mat.'),
        ('"Stop" is on one sign, and on the other "Go."', None),
        ("Here are two red balls.", "Here are two red balls."),
        ("Sure footed goats climb a cliff.", "Sure footed goats climb a cliff."),
        ("A sign: keep out.", "A sign: keep out."),
    ],
)
def test_the_caption_in_an_answer(text: str, caption: str | None) -> None:
    """None is the text itself."""
    assert caption_in(Answer(text, "stop")) == (text if caption is None else caption)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0),
        ("7", 7),
        ("0.5", 0.5),
        ("-3", 0),
        ("soon", 0),
        ("nan", 0),
        ("inf", 0),
        ("Sat, 28 Nov 2026 12:00:10 GMT", 10),
        ("Sat, 28 Nov 2026 11:00:00 GMT", 0),
        ("Sat, 28 Nov 2026 12:00:10", 10),
        ("Sat, 28 Nov 2026 12:00:10 -0000", 10),
    ],
)
def test_retry_after(value: str | None, seconds: float) -> None:
    now = datetime(2026, 11, 28, 12, tzinfo=UTC)
    assert retry_after(value, now) == pytest.approx(seconds)
