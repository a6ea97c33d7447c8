"""The world's English: captions of a scene, and captions read back and judged.

`short_caption`, `counted_caption` and `long_caption` write captions (captions.py).
`read_caption` turns a caption into claims (reading.py), `judge` compares the claims with the scene,
and `caption_counts` counts them (judging.py). `questions_about` asks questions about a scene
(questions.py), and `CaptionReader` answers them from a caption (answering.py).
"""

from vlv.world.answering import UNKNOWN, CaptionReader
from vlv.world.captions import (
    LONG_WORDS,
    SHORT_TOKENS,
    SHORT_WORDS,
    counted_caption,
    long_caption,
    short_caption,
)
from vlv.world.judging import MARGIN, Verdict, caption_counts, judge
from vlv.world.questions import MOST_QUESTIONS, QUESTION_KINDS, Question, questions_about
from vlv.world.reading import (
    CLAIM_KINDS,
    CaptionObject,
    Claim,
    caption_objects,
    read_caption,
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
    "caption_counts",
    "caption_objects",
    "counted_caption",
    "judge",
    "long_caption",
    "questions_about",
    "read_caption",
    "short_caption",
]
