"""The world's English: captions of a scene, and captions read back and judged against it.

`short_caption` and `long_caption` write (captions.py), `read_caption` takes a caption apart into
claims (reading.py), `judge` holds the claims against the scene (judging.py), and `tally` counts
(tally.py). `questions_about` asks about a scene (questions.py), and `CaptionReader` answers from a
caption (answering.py).
"""

from vlv.world.answering import UNKNOWN, CaptionReader
from vlv.world.caption_counts import tally
from vlv.world.captions import LONG_WORDS, SHORT_TOKENS, SHORT_WORDS, long_caption, short_caption
from vlv.world.judging import MARGIN, Verdict, judge
from vlv.world.questions import MOST_QUESTIONS, QUESTION_KINDS, Question, questions_about
from vlv.world.reading import (
    CLAIM_KINDS,
    CaptionObject,
    Claim,
    caption_objects,
    read_caption,
    readable_share,
    sentence_form,
)

__all__ = [
    "CLAIM_KINDS",
    "LONG_WORDS",
    "MARGIN",
    "MOST_QUESTIONS",
    "QUESTION_KINDS",
    "SHORT_TOKENS",
    "SHORT_WORDS",
    "UNKNOWN",
    "CaptionObject",
    "CaptionReader",
    "Claim",
    "Question",
    "Verdict",
    "caption_objects",
    "judge",
    "long_caption",
    "questions_about",
    "read_caption",
    "readable_share",
    "sentence_form",
    "short_caption",
    "tally",
]
