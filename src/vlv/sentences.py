"""Where the sentences of a text begin and end. Knows text only."""

import re
from typing import NamedTuple

# A sentence ends with . ! or ?, closing quotes and brackets included, before white space.
_BETWEEN_SENTENCES = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"')\]”’]))\s+")


class Span(NamedTuple):
    """text[start:end] is a sentence."""

    start: int
    end: int

    def of(self, text: str) -> str:
        """The sentence."""
        return text[self.start : self.end]

    def left_out(self, text: str) -> str:
        """The text without the sentence, and with one blank in its place."""
        return f"{text[: self.start].rstrip()} {text[self.end :].lstrip()}".strip()


def sentence_spans(text: str) -> list[Span]:
    """The sentences of a text in order, white space around them left out."""
    spans, start = [], len(text) - len(text.lstrip())
    for gap in _BETWEEN_SENTENCES.finditer(text, start):
        spans.append(Span(start, gap.start()))
        start = gap.end()
    end = len(text.rstrip())
    return [*spans, Span(start, end)] if start < end else spans


def split_sentences(text: str) -> list[str]:
    """The sentences of a text; joined by blanks they are the text again, but for white space."""
    return [span.of(text) for span in sentence_spans(text)]
