"""The page that shows checks of captions."""

import json
import re

import numpy as np
from PIL import Image

from vlv.verification import report
from vlv.verification.verdicts import Change, SentenceSupport

CAPTION = "A red cube. The floor is gray. A <b>cat</b>."


def check(name: str, *sentences: SentenceSupport) -> report.Shown:
    picture = Image.new("RGB", (8, 8), "brown")
    return report.Shown(report.Verified(name, CAPTION, sentences), *[picture] * 4)


SUPPORTED = SentenceSupport(
    "A red cube.", 0, 11, -0.001, 0.5, 0.97, True, Change(0, 2, 5, "blue", (0.001,)), "supported"
)
UNSUPPORTED = SentenceSupport(
    "The floor is gray.", 12, 30, -0.3, 0.0, 0.02, False, Change(1, 25, 29, "brown", (0.3,)),
    "unsupported",
)  # fmt: skip
UNKNOWN = SentenceSupport.not_judged("A <b>cat</b>.", 31, 44, "it says “cat”")


def page() -> str:
    shown = [
        check("unknown.png", UNKNOWN),
        check("good.png", SUPPORTED),
        check("a & b.png", SUPPORTED, UNSUPPORTED, UNKNOWN),
    ]
    return report.report_page(shown, false_alarm_rate=0.05)


def test_sentences_have_their_verdicts_and_one_number() -> None:
    section = page().partition("<section")[2].partition("</section>")[0]
    assert '<span class="supported">A red cube.</span>' in section
    assert '<span class="unsupported">The floor is gray.</span>' in section
    assert re.findall(r"\d+%", section) == ["97%", "2%"]
    assert "About 5% of true sentences" in page()


def test_a_record_is_json_without_nan() -> None:
    for one in (SUPPORTED, UNSUPPORTED, UNKNOWN):
        record = json.loads(json.dumps(one.record(), allow_nan=False))
        assert (record["text"], record["verdict"]) == (one.text, one.verdict)
    assert SUPPORTED.record()["better"]["error"] is None  # of a single pair of draws


def test_notes_are_of_what_matters_alone() -> None:
    text = page()
    assert "“brown” fits better than “gray”" in text
    assert "blue" not in text  # a word that changes nothing
    assert "cannot be judged: it says “cat”" in text


def test_the_worst_caption_comes_first_and_those_without_a_verdict_last() -> None:
    text = page()
    assert re.findall(r"<h2>(.*\.png)</h2>", text) == ["a &amp; b.png", "good.png", "unknown.png"]
    summary = text.partition("<h2>Summary</h2>")[2].partition("<section")[0]
    assert "3 captions" in summary and "5 sentences" in summary
    for expected in ("1 unsupported", "2 supported", "2 cannot judge"):
        assert expected in summary
    assert '<a href="#c1">a &amp; b.png</a>' in summary and 'id="c1"' in text


def test_one_caption_needs_no_table_and_no_filter() -> None:
    text = report.report_page([check("a.png", UNSUPPORTED)], false_alarm_rate=0.05)
    assert "1 caption, 1 sentence:" in text
    assert "<fieldset" not in text and 'class="summary"' not in text
    assert "<fieldset" in page() and 'class="summary"' in page()


def test_a_filter_hides_what_is_not_asked_for() -> None:
    text = page()
    kinds = re.findall(r'<section id="c\d" class="\s*([^"]*?)\s*">', text)
    assert [kind.split() for kind in kinds] == [
        ["has-unsupported", "has-supported", "has-cannot_judge"],
        ["has-supported"],
        ["has-cannot_judge"],
    ]
    for name, count in (("unsupported", 1), ("cannot_judge", 2)):
        assert f"main:has(#only-{name}:checked) section:not(.has-{name})" in text
        label = text.partition(f'id="only-{name}">')[2].partition("</label>")[0]
        assert label.endswith(f"({count})")


def test_text_is_escaped_and_the_page_is_one_file() -> None:
    text = page()
    assert '<span class="cannot_judge">A &lt;b&gt;cat&lt;/b&gt;.</span>' in text
    assert text.count('src="data:image/png;base64,') == 12
    assert "<script" not in text and "http" not in text


def test_the_omission_map_is_bright_where_pictures_differ() -> None:
    gray = np.full((64, 64, 3), 100, np.uint8)
    changed = gray.copy()
    changed[:32] = 160
    gaps = report.omission_map([Image.fromarray(gray)] * 2, [Image.fromarray(changed)] * 2)
    assert gaps.getpixel((32, 8)) == 120  # twice the difference
    assert gaps.getpixel((32, 56)) == 0
