"""Labels of the sentences of captions: which are true of their image, as people judged them.

A file of JSON lines, one for each caption: `file_name` names the image in its set, `captioner` may
say who wrote the caption. Two forms hold what the benchmarks of labelled sentences hold:

* `sentences`, a list of `{"text": ..., "factual": ..., "claim": ...}`: a caption whose sentences
  raters judged, as in DOCCI-Critique (arXiv 2506.07631). `factual` and `claim` are true or false,
  or lists with the answer of each rater (null for none), of which the majority counts. A sentence
  that makes no claim about the image has no label, nor has one with a tie.
* `text` with `wrong`, a list of the passages in it that the image contradicts: as in HalDec-Bench
  (arXiv 2603.15253). A sentence that holds such a passage is false, and the others are true. Or
  `text` with `factual`, for a single sentence.

Knows texts; opens no image.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlv.errors import DatasetError
from vlv.evaluation.real.captions_file import image_lines
from vlv.sentences import Span, sentence_spans
from vlv.text import printable

_FORM = (
    'each line is {"file_name": "...", "sentences": [{"text": "...", "factual": true}, ...]} or '
    '{"file_name": "...", "text": "...", "wrong": ["..."]}'
)


@dataclass(frozen=True)
class LabelledSentence:
    """text = caption[start:end]; true: None where it has no label."""

    start: int
    end: int
    true: bool | None


@dataclass(frozen=True)
class LabelledCaption:
    """A caption of an image with its sentences, which do not overlap and are in order.

    written_by: the captioner; empty where the labels do not name it.
    """

    file_name: str
    text: str
    sentences: tuple[LabelledSentence, ...]
    written_by: str = ""

    @property
    def key(self) -> str:
        """By which marks of it are found again: image, captioner, text and sentences."""
        edges = [f"{one.start}-{one.end}" for one in self.sentences]
        parts = "\0".join((self.file_name, self.written_by, self.text, *edges))
        return hashlib.sha256(parts.encode("utf-8", "surrogateescape")).hexdigest()[:20]


@dataclass
class Labels:
    """Captions by image, in the order of the file, and what could not be used.

    without_words: lines with nothing to judge, by number. unlabelled: sentences with a tie of
    raters or without a claim.
    """

    by_image: dict[str, list[LabelledCaption]] = field(default_factory=dict)
    without_words: list[str] = field(default_factory=list)
    unlabelled: int = 0

    @property
    def captioners(self) -> list[str]:
        """In the order in which they are met."""
        return list(
            dict.fromkeys(one.written_by for many in self.by_image.values() for one in many)
        )


def read_labels(path: Path) -> Labels:
    """The labels of a file.

    Raises:
        DatasetError: it cannot be read, a line is of another form, or no sentence has a label.
    """
    found = Labels()
    for where, record in image_lines(path, _FORM):
        caption, empty = _caption(record, where)
        if empty:
            found.without_words.append(f"{where}: {empty}")
        if caption is None:
            continue
        known = found.by_image.setdefault(caption.file_name, [])
        if any((one.text, one.written_by) == (caption.text, caption.written_by) for one in known):
            raise DatasetError(
                f"{where} holds a caption of {printable(caption.file_name)} that stood before; "
                "each caption is judged once, with all its labels"
            )
        known.append(caption)
        found.unlabelled += sum(one.true is None for one in caption.sentences)
    labelled = (
        one for many in found.by_image.values() for caption in many for one in caption.sentences
    )
    if all(one.true is None for one in labelled):
        raise DatasetError(f"no sentence of {printable(path)} has a label; {_FORM}")
    return found


def _caption(record: Mapping[str, Any], where: str) -> tuple[LabelledCaption | None, str]:
    """The caption of a line, None where it has no words; and what of it has none."""
    sentences, text = record.get("sentences"), record.get("text")
    empty = ""
    if (
        isinstance(sentences, list)
        and sentences
        and all(isinstance(one, dict) for one in sentences)
    ):
        given = [_sentence(one, where) for one in sentences]
        if lost := sum(not words for words, _ in given):
            empty = f"{lost} of {len(given)} sentences have no words"
        caption, labelled = _joined([one for one in given if one[0]])
    elif isinstance(text, str):
        caption, labelled = text, _of_text(text, record, where)
        empty = "" if labelled else "the caption has no words"
    else:
        raise DatasetError(f"{where} has no sentences and no text; {_FORM}")
    if not labelled:
        return None, empty
    captioner = record.get("captioner")
    name = captioner if isinstance(captioner, str) else ""
    return LabelledCaption(record["file_name"], caption, tuple(labelled), name), empty


def _sentence(given: Mapping[str, Any], where: str) -> tuple[str, bool | None]:
    text = given.get("text")
    if not isinstance(text, str):
        raise DatasetError(f"{where} has a sentence without text; {_FORM}")
    factual = _vote(given, "factual", where)
    claims = _vote(given, "claim", where) if "claim" in given else True
    return text.strip(), factual if claims else None


def _joined(given: Sequence[tuple[str, bool | None]]) -> tuple[str, list[LabelledSentence]]:
    caption, labelled = "", []
    for text, true in given:
        start = len(caption) + bool(caption)
        caption = f"{caption} {text}" if caption else text
        labelled.append(LabelledSentence(start, len(caption), true))
    return caption, labelled


def _of_text(text: str, record: Mapping[str, Any], where: str) -> list[LabelledSentence]:
    spans = sentence_spans(text)
    if not spans:
        return []
    if "factual" in record:
        # One label for all of it: it is one sentence to the people who judged it.
        label = _vote(record, "factual", where)
        return [LabelledSentence(spans[0].start, spans[-1].end, label)]
    wrong = record.get("wrong")
    if not isinstance(wrong, list) or not all(isinstance(one, str) for one in wrong):
        raise DatasetError(f"{where} has neither factual nor a list of wrong passages; {_FORM}")
    places = [place for passage in wrong for place in _places(text, passage, where)]
    return [
        LabelledSentence(*span, not any(_overlap(span, place) for place in places))
        for span in spans
    ]


def _places(text: str, passage: str, where: str) -> list[Span]:
    start = text.find(passage)
    if start < 0 or not passage.strip():
        raise DatasetError(
            f"{where}: the wrong passage {printable(passage)!r} does not occur in the text"
        )
    found = []
    while start >= 0:
        found.append(Span(start, start + len(passage)))
        start = text.find(passage, start + 1)
    return found


def _overlap(first: Span, second: Span) -> bool:
    return first.start < second.end and second.start < first.end


def _vote(given: Mapping[str, Any], name: str, where: str) -> bool | None:
    """The answer, or that of the majority; None for a tie and where nobody answered."""
    value = given.get(name)
    votes = value if isinstance(value, list) else [value]
    if not all(vote is None or isinstance(vote, bool) for vote in votes):
        raise DatasetError(f"{where}: {name} is true, false, null, or a list of them")
    gap = sum(vote is True for vote in votes) - sum(vote is False for vote in votes)
    return None if gap == 0 else gap > 0
