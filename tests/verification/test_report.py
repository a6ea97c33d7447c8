"""The page that shows checks of captions."""

import numpy as np
from PIL import Image

from vlv.verification import report
from vlv.verification.verdicts import SentenceSupport

CAPTION = "A red cube. The floor is gray. A <b>cat</b>."


def page() -> str:
    sentences = (
        SentenceSupport("A red cube.", 0, 11, 0.0, 0.5, 0.97, True, None, "supported"),
        SentenceSupport("The floor is gray.", 12, 30, -0.5, 0.0, 0.0, False, None, "unsupported"),
        SentenceSupport.not_judged("A <b>cat</b>.", 31, 44, "it says “cat”"),
    )
    checked = report.Verified("a & b.png", CAPTION, sentences)
    picture = Image.new("RGB", (8, 8), "brown")
    return report.report_page([report.Shown(checked, *[picture] * 4)], false_alarm_rate=0.05)


def test_sentences_have_their_verdicts() -> None:
    section = page().partition("<section>")[2]
    assert '<span class="supported">A red cube.</span>' in section
    assert '<span class="unsupported">The floor is gray.</span>' in section
    assert "97%" in section and ">0%<" in section
    assert "About 5% of true sentences" in page()


def test_text_is_escaped_and_the_page_is_one_file() -> None:
    text = page()
    assert '<span class="cannot_judge">A &lt;b&gt;cat&lt;/b&gt;.</span>' in text
    assert "<h2>a &amp; b.png</h2>" in text and "it says “cat”" in text
    assert text.count('src="data:image/png;base64,') == 4
    assert "<script" not in text and "http" not in text


def test_the_omission_map_is_bright_where_pictures_differ() -> None:
    gray = np.full((64, 64, 3), 100, np.uint8)
    changed = gray.copy()
    changed[:32] = 160
    gaps = report.omission_map([Image.fromarray(gray)] * 2, [Image.fromarray(changed)] * 2)
    assert gaps.getpixel((32, 8)) == 120  # twice the difference
    assert gaps.getpixel((32, 56)) == 0
