"""Divides a sentence into phrases, each of a kind and with the facts that it states.

`a small red cube stands at the back left` becomes the kinds `new stands place`. Which sequences of
kinds are a sentence is in forms.py, and what a sentence claims in reading.py.
"""

import re
from dataclasses import dataclass, field

from vlv.world.lexicon import NUMBERS, PLACE_PHRASES, RELATIONS, tokens_of
from vlv.world.scene import COLORS, FLOORS, LIGHTS, MATERIALS, SHAPES, SIZES


@dataclass(frozen=True)
class Phrase:
    """A kind (see `_PATTERNS`) and what the phrase states, by the name of the fact."""

    kind: str
    facts: dict[str, str] = field(default_factory=dict)


def _place_meanings() -> dict[str, dict[str, str]]:
    """Every readable place phrase: those of captions, their parts, and other pairs of parts."""
    sides = {f"on the {column}": {"column": column} for column in ("left", "right")}
    sides["in the middle"] = {"column": "middle"}
    depths = {f"at the {row}": {"row": row} for row in ("front", "back")}
    depths |= {f"in the {row} row": {"row": row} for row in ("front", "middle", "back")}
    meanings = {**sides, **depths}
    meanings |= {f"on the {c} side of the picture": {"column": c} for c in ("left", "right")}
    for side, column in sides.items():
        for depth, row in depths.items():
            meanings[f"{side} {depth}"] = meanings[f"{depth} {side}"] = {**column, **row}
    for (c, r), phrases in PLACE_PHRASES.items():
        meanings |= {phrase: {"column": c, "row": r} for phrase in phrases}
    return meanings


_PLACES = _place_meanings()


def _one_of(words: tuple[str, ...] | list[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_QUALITY = rf"(?:{_one_of((*SIZES, *MATERIALS))})"
_QUALITIES = rf"{_QUALITY}(?: and {_QUALITY})?"
_ADJECTIVES = (
    rf"(?: (?:{_one_of(SIZES)}))?(?: (?:{_one_of(MATERIALS)}))?(?: (?:{_one_of(COLORS)}))?"
)
_AFTER_NOUN = rf"(?: with a (?:{_one_of(MATERIALS)}) surface| that is {_QUALITIES})?"
_SHAPE = _one_of(SHAPES)
_FLOOR = rf"(?P<floor>{_one_of(FLOORS)})"
_LIGHT = rf"(?P<light>{_one_of(LIGHTS)})"
_MANY = _one_of(NUMBERS[2:])

# (kind, pattern). At every position of a sentence the first pattern that matches is taken.
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("comma", r","),
    # Places and relations.
    ("place", rf"(?P<place>{_one_of(list(_PLACES))})"),
    ("relation", rf"(?P<relation>{_one_of(RELATIONS)})"),
    # Floor and light: whole clauses, then modifiers.
    ("floor_is", rf"the (?:color of the )?floor is {_FLOOR}"),
    ("floor_is", rf"the scene has a {_FLOOR} floor"),
    ("light_is", rf"the light comes from the {_LIGHT}"),
    ("light_is", rf"light falls from the {_LIGHT}"),
    ("light_is", rf"the scene is lit from the {_LIGHT}"),
    ("floor_and_light", rf"light from the {_LIGHT} falls on the {_FLOOR} floor"),
    ("floor_and_light", rf"light falls on the {_FLOOR} floor from the {_LIGHT}"),
    ("floor_and_light", rf"the {_FLOOR} floor is lit from the {_LIGHT}"),
    ("shadow", r"(?:the shadow falls|the shadows fall) to the (?P<away>left|right)"),
    ("on_floor", rf"on a {_FLOOR} floor"),
    ("lit_from", rf"lit from the {_LIGHT}"),
    ("with_light", rf"with light from the {_LIGHT}"),
    # Openings and verbs.
    ("there_is", r"there is"),
    ("there_are", r"there are"),
    ("shows", r"the picture shows|the scene has|you can see|we see"),
    ("stands", r"stands|sits|rests"),
    ("seen", r"can be seen"),
    ("is", r"is"),
    ("stand", r"stand|sit|rest"),
    ("are", r"are"),
    # Qualities of one object.
    ("its_surface", r"its surface"),
    ("its_size", r"its size"),
    ("surface_of", r"the surface of"),
    ("size_of", r"the size of"),
    ("has_surface", rf"has a (?P<quality>{_one_of(MATERIALS)}) surface"),
    ("quality", rf"(?P<quality>{_QUALITIES})"),
    # Objects and numbers of them.
    ("known", rf"the(?P<words>{_ADJECTIVES} (?:{_SHAPE}){_AFTER_NOUN})"),
    ("new", rf"(?:an(?= [aeiou])|a(?! [aeiou]))(?P<words>{_ADJECTIVES} (?:{_SHAPE}){_AFTER_NOUN})"),
    ("the_object", r"the object"),
    ("it", r"it"),
    ("no_other", r"no other object"),
    ("one_object", r"(?P<number>one) object"),
    ("objects", rf"(?P<number>{_MANY}) objects"),
    ("one_of", r"(?P<number>one) of (?:them|the objects)"),
    ("several_of", rf"(?P<number>both|all|{_MANY}) of (?:them|the objects)"),
    ("several_of", r"(?P<number>both|all) objects"),
    ("one", r"(?P<number>one)"),
    ("several", rf"(?P<number>{_MANY})"),
    ("all", r"both|all"),
    # Conjunctions.
    ("in_picture", r"in the picture"),
    ("and", r"and"),
    ("while", r"while"),
    ("with", r"with"),
    ("so", r"so"),
)

_COMPILED = tuple((kind, re.compile(rf"(?:{text})(?= |$)")) for kind, text in _PATTERNS)
_FACT_OF_WORD = {
    **dict.fromkeys(SIZES, "size"),
    **dict.fromkeys(MATERIALS, "material"),
    **dict.fromkeys(COLORS, "color"),
    **dict.fromkeys(SHAPES, "shape"),
}


def phrases_of(sentence: str) -> list[Phrase] | None:
    """The phrases of a sentence, in order; None if a part of it is no phrase of this language."""
    text = " ".join(tokens_of(sentence))
    found: list[Phrase] = []
    start = 0
    while start < len(text):
        kind, match = _next_phrase(text, start)
        facts = _facts(match) if match else None
        if match is None or facts is None:
            return None
        found.append(Phrase(kind, facts))
        start = match.end() + 1
    return found


def _next_phrase(text: str, start: int) -> tuple[str, re.Match[str] | None]:
    for kind, pattern in _COMPILED:
        match = pattern.match(text, start)
        if match:
            return kind, match
    return "", None


def _facts(match: re.Match[str]) -> dict[str, str] | None:
    """What a phrase states; None if it names two values of one fact, as "a red blue cube"."""
    groups = {name: text for name, text in match.groupdict().items() if text}
    if "place" in groups:
        return _PLACES[groups["place"]]
    if "away" in groups:
        return {"light": "right" if groups["away"] == "left" else "left"}
    words = groups.pop("words", "") + groups.pop("quality", "")
    for word in words.split():
        fact = _FACT_OF_WORD.get(word)
        if fact in groups:
            return None
        if fact:
            groups[fact] = word
    return groups
