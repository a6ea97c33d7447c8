"""Reads captions back into claims.

A sentence is read as a whole or not at all: it must have one of the forms of forms.py, and consist
of the phrases of phrases.py. Captions of a language model consist of the same phrases, so their
errors are mostly wrong facts. Any other sentence is `unreadable`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from vlv.sentences import split_sentences
from vlv.world.forms import body_groups, form_of
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
        subject: indices of the described objects that the claim can be about, in the order of
            their first mention. There are several if a name such as "the cube" fits several, and
            none for floor, light and count.
        other: the same for the second object of a relation.
        shape: shape word of an `object` claim.
        color: colour word of an `object` claim, None if the caption does not give it.
        number: what a `count` claims; None means all objects.
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
    """An object as a caption describes it; None for facts that the caption does not give."""

    shape: str | None
    color: str | None
    size: str | None = None
    material: str | None = None
    column: str | None = None
    row: str | None = None


def read_caption(text: str) -> list[Claim]:
    """Every fact that a caption states, once, in the order of first mention.

    A sentence that cannot be read is one claim of kind `unreadable`; so is a last sentence without
    a full stop. An object that is introduced twice ("a red cube ... a red cube") is two objects.
    """
    reader = _Reader()
    for index, sentence in enumerate(split_sentences(text)):
        reader.read(index, sentence)
    return reader.claims


def caption_objects(claims: Iterable[Claim]) -> list[CaptionObject]:
    """The objects that a caption describes, in order of first mention.

    If facts contradict each other, the first one counts.
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


class _Reader:
    """Claims of the sentences read so far, and the objects they described."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []
        self._seen: set[Claim] = set()
        self._described: list[dict[str, str]] = []
        self._topic: tuple[int, ...] = ()  # what "it" means
        self._at: tuple[int, str] = (0, "")

    def read(self, index: int, sentence: str) -> None:
        self._at = index, sentence
        phrases = phrases_of(sentence[:-1]) if sentence.endswith(".") else None
        form = form_of([phrase.kind for phrase in phrases or ()])
        if not phrases or form is None or not self._makes_sense(phrases):
            self.claims.append(Claim("unreadable", index, sentence))
        elif form == "body":
            self._read_body(phrases)
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

    def _makes_sense(self, phrases: list[Phrase]) -> bool:
        kinds = [phrase.kind for phrase in phrases]
        if not self._topic and {"it", "its_surface", "its_size"} & set(kinds):
            return False
        qualities = [set(phrase.facts) for phrase in phrases if phrase.kind == "quality"]
        if kinds[0] in ("its_surface", "surface_of"):
            return qualities == [{"material"}]
        if kinds[0] in ("its_size", "size_of"):
            return qualities == [{"size"}]
        is_share = kinds[0] in ("one_of", "several_of")
        return not is_share or all(len(quality) == 1 for quality in qualities)

    def _read_setting(self, phrases: list[Phrase]) -> None:
        for phrase in phrases:
            for fact in ("floor", "light"):
                if fact in phrase.facts:
                    self._state(fact, phrase.facts[fact])

    def _read_body(self, phrases: list[Phrase]) -> None:
        self._read_setting(phrases)
        for start, end in body_groups([phrase.kind for phrase in phrases]) or ():
            group = phrases[start:end]
            who = next(phrase for phrase in group if phrase.kind in ("new", "known", "it"))
            place = next((phrase.facts for phrase in group if phrase.kind == "place"), {})
            self._topic = self._refer(who)
            for fact, word in place.items():
                self._state(fact, word, self._topic)

    def _read_quality(self, phrases: list[Phrase]) -> None:
        who = next((phrase for phrase in phrases if phrase.kind in ("known", "it")), None)
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
            if phrase.kind == "no_other":
                self._count(len(self._described))
            elif phrase.kind in ("objects", "one_object") and word:
                self._count(NUMBERS.index(word))
            elif word == "both":
                number = 2
                self._count(number)
            elif word:
                number = None if word == "all" else NUMBERS.index(word)
            elif phrase.kind == "quality":
                (quality,) = phrase.facts.values()
                self._count(number, quality)

    def _refer(self, phrase: Phrase) -> tuple[int, ...]:
        """The described objects that a noun phrase can mean; a new object if there is none."""
        if phrase.kind == "it":
            return self._topic
        facts, fits = phrase.facts, list[int]()
        if phrase.kind == "known":
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
