"""Answers questions from a caption only, in place of the paper's text-only language model.

A language model guesses; here an answer is what follows from the claims of the caption
(reading.py), and `UNKNOWN` if nothing follows. No scene and no image is seen.

A caption is taken as complete: what it does not mention is not there. The exception is a caption
that counts more objects than it describes. So a caption with true claims only, which describes or
at least counts all objects, never leads to a wrong answer. A caption that omits an object may.
"""

from collections.abc import Iterable
from itertools import product

from vlv.world.lexicon import COLUMNS, ROWS
from vlv.world.questions import Description, Question
from vlv.world.reading import Claim, caption_objects, read_caption

UNKNOWN = "unknown"

_OPPOSITE = {
    "to the left of": "to the right of",
    "to the right of": "to the left of",
    "in front of": "behind",
    "behind": "in front of",
}
# Relation -> the fact it can be derived from, and that fact's words in the order of the relation.
_ORDER = {
    "to the left of": ("column", COLUMNS),
    "to the right of": ("column", COLUMNS[::-1]),
    "in front of": ("row", ROWS),
    "behind": ("row", ROWS[::-1]),
}


class CaptionReader:
    """Answers from one caption. If claims contradict each other, the first one counts."""

    def __init__(self, caption: str) -> None:
        self._claims = read_caption(caption)
        self._objects = caption_objects(self._claims)
        total = self._claimed("")
        self._total = len(self._objects) if total is None else total
        self._undescribed = max(self._total - len(self._objects), 0)

    def answer(self, question: Question) -> str:
        """One of `question.choices`, or `UNKNOWN` if the caption does not say."""
        if question.kind in ("floor", "light"):
            return self._setting(question.kind)
        if question.kind == "existence":
            least, most = self._number(question.first)
            return _verdict([True if least else None if most else False])
        if question.kind == "count":
            least, most = self._number(question.first)
            return str(least) if least == most else UNKNOWN
        if question.kind == "comparison" and question.fact == "number":
            return self._more(question.first, question.second)
        if question.kind == "attribute":
            words = {getattr(self._objects[i], question.fact) for i in self._the(question.first)}
            return words.pop() or UNKNOWN if len(words) == 1 else UNKNOWN
        pairs = product(self._the(question.first), self._the(question.second))
        holds = self._same_size if question.kind == "comparison" else self._relation
        return _verdict(holds(question.fact, a, b) for a, b in pairs if a != b)

    def _setting(self, kind: str) -> str:
        return next((claim.value for claim in self._claims if claim.kind == kind), UNKNOWN)

    def _claimed(self, quality: str) -> int | None:
        """How many objects of this size or material ("" means all) the caption says there are."""
        for claim in self._claims:
            if claim.kind == "count" and claim.value == quality:
                return self._total if claim.number is None else claim.number
        return None

    def _number(self, description: Description) -> tuple[int, int]:
        """The least and the largest possible number of objects that fit."""
        words = list(description.facts.values())
        if not words:
            return self._total, self._total
        claimed = self._claimed(words[0]) if len(words) == 1 else None
        if claimed is not None:
            return claimed, claimed
        fits = [description.fits(obj) for obj in self._objects]
        least = fits.count(True)
        return least, least + fits.count(None) + self._undescribed

    def _more(self, first: Description, second: Description) -> str:
        (least_first, most_first), (least_second, most_second) = map(self._number, (first, second))
        if least_first > most_second:
            return "yes"
        return "no" if most_first <= least_second else UNKNOWN

    def _the(self, description: Description) -> list[int]:
        """The described objects that "the ..." of a question can mean."""
        fits = [description.fits(obj) for obj in self._objects]
        sure = [i for i, fit in enumerate(fits) if fit]
        if sure or self._undescribed:
            return sure
        return [i for i, fit in enumerate(fits) if fit is None]

    def _same_size(self, _: str, a: int, b: int) -> bool | None:
        one, other = self._objects[a].size, self._objects[b].size
        return None if one is None or other is None else one == other

    def _relation(self, relation: str, a: int, b: int) -> bool | None:
        """As the caption says it, or else as it follows from the two places."""
        for claim in self._claims:
            said = _said_of(claim, a, b)
            if said in (relation, _OPPOSITE[relation]):
                return said == relation
        fact, order = _ORDER[relation]
        one, other = (getattr(self._objects[i], fact) for i in (a, b))
        if one is None or other is None or one == other:
            return None
        return order.index(one) < order.index(other)


def _said_of(claim: Claim, a: int, b: int) -> str | None:
    """The relation of object a to object b that a claim states, if it states one."""
    if claim.kind != "relation":
        return None
    if (claim.subject, claim.other) == ((a,), (b,)):
        return claim.value
    return _OPPOSITE[claim.value] if (claim.subject, claim.other) == ((b,), (a,)) else None


def _verdict(readings: Iterable[bool | None]) -> str:
    """Yes or no if all readings of a question agree."""
    different = set(readings)
    if len(different) != 1:
        return UNKNOWN
    return {True: "yes", False: "no", None: UNKNOWN}[different.pop()]
