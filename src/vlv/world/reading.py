"""Reads captions back into claims.

A sentence is read as a whole or not at all: it must be one of the sentence forms below, made of
the phrases of phrases.py. Captions of a language model are made of the same phrases, so that
their mistakes are mostly wrong facts; what is no sentence of this language is `unreadable`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from vlv.sentences import split_sentences
from vlv.world.lexicon import NUMBERS
from vlv.world.phrases import Phrase, phrases_of

OBJECT_FACTS = ("size", "material", "column", "row")
CLAIM_KINDS = ("object", *OBJECT_FACTS, "relation", "floor", "light", "count", "unreadable")


@dataclass(frozen=True)
class Claim:
    """One fact that a caption states.

    Attributes:
        kind: one of `CLAIM_KINDS`. `object` claims that an object of this shape and colour is in
            the scene; `size`, `material`, `column` and `row` are facts of an object.
        sentence: index of the sentence in the caption.
        text: that sentence.
        value: the word of the fact; a relation's words; for a count, the size or material that is
            counted ("" counts all objects). Empty for `object` and `unreadable`.
        subject: numbers of the described objects that the claim can be about, in the order of
            their first mention. More than one when a name such as "the cube" fits several; none
            for floor, light and count.
        other: the same for the second object of a relation.
        shape: shape word of an `object` claim.
        color: colour word of an `object` claim, None when the caption leaves it open.
        number: what a `count` claims; None claims all objects.
    """

    kind: str
    sentence: int
    text: str
    value: str = ""
    subject: tuple[int, ...] = ()
    other: tuple[int, ...] = ()
    shape: str | None = None
    color: str | None = None
    number: int | None = None


@dataclass(frozen=True)
class CaptionObject:
    """An object as a caption describes it; None where the caption says nothing."""

    shape: str | None
    color: str | None
    size: str | None = None
    material: str | None = None
    column: str | None = None
    row: str | None = None


def read_caption(text: str) -> list[Claim]:
    """Every fact that a caption states, once, in the order of first mention.

    A sentence that cannot be read, and a last one without full stop, is one claim of kind
    `unreadable`. An object introduced twice ("a red cube ... a red cube") is two objects.
    """
    reader = _Reader()
    for index, sentence in enumerate(split_sentences(text)):
        reader.read(index, sentence)
    return reader.claims


def caption_objects(claims: Iterable[Claim]) -> list[CaptionObject]:
    """The objects that a caption describes, in order of first mention.

    Of contradicting facts the first counts.
    """
    objects: list[CaptionObject] = []
    facts: list[dict[str, str]] = []
    for claim in claims:
        if claim.kind == "object":
            objects.append(CaptionObject(claim.shape, claim.color))
            facts.append({})
        elif claim.kind in OBJECT_FACTS and len(claim.subject) == 1:
            facts[claim.subject[0]].setdefault(claim.kind, claim.value)
    return [
        CaptionObject(obj.shape, obj.color, **known)
        for obj, known in zip(objects, facts, strict=True)
    ]


def readable_share(text: str) -> float:
    """Share of a caption's sentences that can be read; 0 for an empty caption."""
    sentences = split_sentences(text)
    unreadable = sum(claim.kind == "unreadable" for claim in read_caption(text))
    return 1 - unreadable / len(sentences) if sentences else 0.0


def sentence_form(sentence: str) -> str | None:
    """The form of a sentence, a letter a phrase (see phrases.py); None when it has none."""
    phrases = phrases_of(sentence[:-1]) if sentence.endswith(".") else None
    letters = "".join(phrase.letter for phrase in phrases or ())
    return letters if _form_of(letters) else None


# Forms of sentences, by the letters of phrases.py: n a new object, d a known one, i "it",
# p a place, r a relation, b "is", v and V other verbs, q qualities, f a floor, g and l a light.
_VERB = "[vVb]"
_FORMS: dict[str, re.Pattern[str]] = {
    name: re.compile(pattern)
    for name, pattern in {
        "setting": r"F|L|B|T|F,?&(L|b?g)|F,?l|L,?&F|L,uT",
        "count": r"([sE]c|[st]C)(y|f[gl]?)?|(c[wVe]|C[vVb])f[gl]?",
        "no other": r"tNy?",
        "share": r"(Kb|ke)q(&(Mb|me)q)?",
        "quality": r"[di]bq|[jz]bq|[SZ][di]bq|[di]a",
        "relation": rf"[di]{_VERB}r[di](&r[di])?",
        "turned relation": r"r[di][vb]d",
    }.items()
}
# Any other sentence is a body sentence, who stands where: groups of a subject and its place.
_JOINT = re.compile(r",[&hx]|[,&hx]")
_BEFORE_LAST = re.compile(r",?[&hx]$")
_FIRST_GROUP = re.compile(rf"[ndi]{_VERB}p|[st]np?|p[vVbt]n|opbn")
_LATER_GROUP = re.compile(rf"n{_VERB}p|tnp|p[vVbt]n|opbn")
_BEFORE_BODY = re.compile(r"f[gl]?,")
_AFTER_BODY = re.compile(r"(,?A)?f[gl]?$")


def _form_of(letters: str) -> str | None:
    for name, pattern in _FORMS.items():
        if pattern.fullmatch(letters):
            return name
    return "body" if _body_groups(letters) else None


def _body_groups(letters: str) -> list[tuple[int, int]] | None:
    """Where the groups of a body sentence start and end; None when it is no body sentence."""
    before, after = _BEFORE_BODY.match(letters), _AFTER_BODY.search(letters)
    start, end = before.end() if before else 0, after.start() if after else len(letters)
    groups = []
    for joint in (*_JOINT.finditer(letters, start, end), None):
        groups.append((start, joint.start() if joint else end))
        start = joint.end() if joint else end
    first, *later = (letters[a:b] for a, b in groups)
    last_start = groups[-1][0]
    if not _FIRST_GROUP.fullmatch(first):
        return None
    if later and not _BEFORE_LAST.search(letters, 0, last_start):
        return None
    # A group without a verb borrows it from the first one, and keeps its order.
    gapped = re.compile("pn" if first[0] == "p" else "np?" if first[0] in "st" else "np")
    if all(_LATER_GROUP.fullmatch(group) or gapped.fullmatch(group) for group in later):
        return groups
    return None


class _Reader:
    """Claims of the sentences read so far, and the objects they described."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []
        self._seen: set[Claim] = set()
        self._described: list[dict[str, str]] = []
        self._topic: tuple[int, ...] = ()  # what "it" would mean
        self._at: tuple[int, str] = (0, "")

    def read(self, index: int, sentence: str) -> None:
        self._at = index, sentence
        phrases = phrases_of(sentence[:-1]) if sentence.endswith(".") else None
        letters = "".join(phrase.letter for phrase in phrases or ())
        form = _form_of(letters)
        if not phrases or form is None or not self._makes_sense(letters, phrases):
            self.claims.append(Claim("unreadable", index, sentence))
        elif form == "body":
            self._read_body(phrases, letters)
        elif form in ("count", "no other", "share"):
            self._read_count(phrases)
        elif form == "quality":
            self._read_quality(phrases)
        elif form == "relation":
            self._read_relation(phrases)
        elif form == "turned relation":
            relation, other, _, subject = phrases
            others = self._refer(other)
            self._topic = self._refer(subject)
            self._state("relation", relation.facts["relation"], self._topic, others)
        else:
            self._read_setting(phrases)

    def _makes_sense(self, letters: str, phrases: list[Phrase]) -> bool:
        if re.search("[ijz]", letters) and not self._topic:
            return False
        qualities = [set(phrase.facts) for phrase in phrases if phrase.letter == "q"]
        if letters[0] in "jS":
            return qualities == [{"material"}]
        if letters[0] in "zZ":
            return qualities == [{"size"}]
        return letters[0] not in "Kk" or all(len(quality) == 1 for quality in qualities)

    def _read_setting(self, phrases: list[Phrase]) -> None:
        for phrase in phrases:
            for fact in ("floor", "light"):
                if fact in phrase.facts:
                    self._state(fact, phrase.facts[fact])

    def _read_body(self, phrases: list[Phrase], letters: str) -> None:
        self._read_setting(phrases)
        for start, end in _body_groups(letters) or ():
            group = phrases[start:end]
            who = next(phrase for phrase in group if phrase.letter in "ndi")
            place = next((phrase.facts for phrase in group if phrase.letter == "p"), {})
            self._topic = self._refer(who)
            for fact, word in place.items():
                self._state(fact, word, self._topic)

    def _read_quality(self, phrases: list[Phrase]) -> None:
        who = next((phrase for phrase in phrases if phrase.letter in "di"), None)
        if who:
            self._topic = self._refer(who)
        for fact, word in phrases[-1].facts.items():
            self._state(fact, word, self._topic)

    def _read_relation(self, phrases: list[Phrase]) -> None:
        before, subject = self._topic, self._refer(phrases[0])
        for relation, other in zip(phrases[2::3], phrases[3::3], strict=True):
            # "behind it": the object named just before.
            self._topic = before
            before = self._refer(other)
            self._state("relation", relation.facts["relation"], subject, before)
        self._topic = subject

    def _read_count(self, phrases: list[Phrase]) -> None:
        self._read_setting(phrases)
        number: int | None = None
        for phrase in phrases:
            word = phrase.facts.get("number")
            if phrase.letter == "N":
                self._count(len(self._described))
            elif phrase.letter in "cC" and word:
                self._count(NUMBERS.index(word))
            elif word == "both":
                number = 2
                self._count(number)
            elif word:
                number = None if word == "all" else NUMBERS.index(word)
            elif phrase.letter == "q":
                (quality,) = phrase.facts.values()
                self._count(number, quality)

    def _refer(self, phrase: Phrase) -> tuple[int, ...]:
        """The described objects that a noun phrase can mean; a new one if there is none."""
        if phrase.letter == "i":
            return self._topic
        facts, fits = phrase.facts, list[int]()
        if phrase.letter == "d":
            fits = [
                i
                for i, known in enumerate(self._described)
                if known["shape"] == facts["shape"]
                and facts.get("color") in (None, known.get("color"))
            ]
            closer = [i for i in fits if facts.items() <= self._described[i].items()]
            fits = closer or fits
        if len(fits) > 1:
            return tuple(fits)
        subject = (fits[0],) if fits else self._describe(facts)
        for fact in ("size", "material"):
            if fact in facts:
                self._state(fact, facts[fact], subject)
        return subject

    def _describe(self, facts: dict[str, str]) -> tuple[int, ...]:
        self._described.append({k: facts[k] for k in ("shape", "color") if k in facts})
        subject = (len(self._described) - 1,)
        claim = Claim(
            "object", *self._at, subject=subject, shape=facts["shape"], color=facts.get("color")
        )
        self.claims.append(claim)
        return subject

    def _state(
        self, kind: str, value: str, subject: tuple[int, ...] = (), other: tuple[int, ...] = ()
    ) -> None:
        self._add(Claim(kind, *self._at, value, subject, other))
        if kind in ("size", "material") and len(subject) == 1:
            self._described[subject[0]].setdefault(kind, value)

    def _count(self, number: int | None, quality: str = "") -> None:
        self._add(Claim("count", *self._at, quality, number=number))

    def _add(self, claim: Claim) -> None:
        fact = replace(claim, sentence=0, text="")
        if fact not in self._seen:
            self._seen.add(fact)
            self.claims.append(claim)
