"""Takes a sentence apart into phrases, each a letter with the facts it states.

`a small red cube stands at the back left` becomes the letters `nvp`. Which rows of letters make a
sentence, and what such a sentence claims, is decided in reading.py.
"""

import re
from dataclasses import dataclass, field

from vlv.world.lexicon import NUMBERS, PLACE_PHRASES, RELATIONS, tokens_of
from vlv.world.scene import COLORS, FLOORS, LIGHTS, MATERIALS, SHAPES, SIZES


@dataclass(frozen=True)
class Phrase:
    """A letter (see `_PATTERNS`) and what the phrase states, by the name of the fact."""

    letter: str
    facts: dict[str, str] = field(default_factory=dict)


def _place_meanings() -> dict[str, dict[str, str]]:
    """Every readable place phrase: the written ones, their parts, and other pairs of parts."""
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

# Tried in this order at every place of a sentence; the first that fits is taken.
_PATTERNS: tuple[tuple[str, str], ...] = (
    (",", r","),
    # Places and relations.
    ("p", rf"(?P<place>{_one_of(list(_PLACES))})"),
    ("r", rf"(?P<relation>{_one_of(RELATIONS)})"),
    # Floor and light: whole clauses, then modifiers.
    ("F", rf"the (?:color of the )?floor is {_FLOOR}"),
    ("F", rf"the scene has a {_FLOOR} floor"),
    ("L", rf"the light comes from the {_LIGHT}"),
    ("L", rf"light falls from the {_LIGHT}"),
    ("L", rf"the scene is lit from the {_LIGHT}"),
    ("B", rf"light from the {_LIGHT} falls on the {_FLOOR} floor"),
    ("B", rf"light falls on the {_FLOOR} floor from the {_LIGHT}"),
    ("B", rf"the {_FLOOR} floor is lit from the {_LIGHT}"),
    ("T", r"(?:the shadow falls|the shadows fall) to the (?P<away>left|right)"),
    ("f", rf"on a {_FLOOR} floor"),
    ("g", rf"lit from the {_LIGHT}"),
    ("l", rf"with light from the {_LIGHT}"),
    # Openings and verbs.
    ("t", r"there is"),
    ("E", r"there are"),
    ("s", r"the picture shows|the scene has|you can see|we see"),
    ("v", r"stands|sits|rests"),
    ("V", r"can be seen"),
    ("b", r"is"),
    ("w", r"stand|sit|rest"),
    ("e", r"are"),
    # Qualities of one object.
    ("j", r"its surface"),
    ("z", r"its size"),
    ("S", r"the surface of"),
    ("Z", r"the size of"),
    ("a", rf"has a (?P<quality>{_one_of(MATERIALS)}) surface"),
    ("q", rf"(?P<quality>{_QUALITIES})"),
    # Objects and numbers of them.
    ("d", rf"the(?P<words>{_ADJECTIVES} (?:{_SHAPE}){_AFTER_NOUN})"),
    ("n", rf"(?:an(?= [aeiou])|a(?! [aeiou]))(?P<words>{_ADJECTIVES} (?:{_SHAPE}){_AFTER_NOUN})"),
    ("o", r"the object"),
    ("i", r"it"),
    ("N", r"no other object"),
    ("C", r"(?P<number>one) object"),
    ("c", rf"(?P<number>{_MANY}) objects"),
    ("K", r"(?P<number>one) of (?:them|the objects)"),
    ("k", rf"(?P<number>both|all|{_MANY}) of (?:them|the objects)"),
    ("k", r"(?P<number>both|all) objects"),
    ("M", r"(?P<number>one)"),
    ("m", rf"(?P<number>{_MANY})"),
    ("A", r"both|all"),
    # Joints.
    ("y", r"in the picture"),
    ("&", r"and"),
    ("h", r"while"),
    ("x", r"with"),
    ("u", r"so"),
)

_COMPILED = tuple((letter, re.compile(rf"(?:{text})(?= |$)")) for letter, text in _PATTERNS)
_FACT_OF_WORD = {
    **dict.fromkeys(SIZES, "size"),
    **dict.fromkeys(MATERIALS, "material"),
    **dict.fromkeys(COLORS, "color"),
    **dict.fromkeys(SHAPES, "shape"),
}


def phrases_of(sentence: str) -> list[Phrase] | None:
    """The phrases of a sentence, in order; None when a part of it is no phrase of this language."""
    text = " ".join(tokens_of(sentence))
    found: list[Phrase] = []
    start = 0
    while start < len(text):
        letter, match = _next_phrase(text, start)
        facts = _facts(match) if match else None
        if match is None or facts is None:
            return None
        found.append(Phrase(letter, facts))
        start = match.end() + 1
    return found


def _next_phrase(text: str, start: int) -> tuple[str, re.Match[str] | None]:
    for letter, pattern in _COMPILED:
        match = pattern.match(text, start)
        if match:
            return letter, match
    return "", None


def _facts(match: re.Match[str]) -> dict[str, str] | None:
    """What a phrase states; None when it names two values of one fact, as "a red blue cube"."""
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
