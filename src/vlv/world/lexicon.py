"""The lexicon: words and phrases of the world's English that writing and reading share.

Facts are named by exactly the words of scene.py; columns and rows of the floor by `left`,
`middle`, `right` and `front`, `middle`, `back`. Sentences are elsewhere: sentences.py and
relations.py write them, phrases.py, forms.py and reading.py read them.
"""

import re

from vlv.world.scene import SceneObject

COLUMNS = ("left", "middle", "right")
ROWS = ("front", "middle", "back")
RELATIONS = ("to the left of", "to the right of", "in front of", "behind")
NUMBERS = ("no", "one", "two", "three", "four")
SINGULAR_VERBS = ("stands", "sits", "rests", "is", "can be seen")
PLURAL_VERBS = ("stand", "sit", "rest", "are", "can be seen")

# Where a column or a row ends: x at -0.3 and 0.3, z at 1/3 and 2/3.
COLUMN_EDGE = 0.3
ROW_EDGES = (1 / 3, 2 / 3)


def column_of(x: float) -> str:
    """The column word of a place: left of x = -0.3, right of x = 0.3, or the middle."""
    return "left" if x < -COLUMN_EDGE else "right" if x > COLUMN_EDGE else "middle"


def row_of(z: float) -> str:
    """The row word of a place: in front of z = 1/3, behind z = 2/3, or the middle."""
    return "front" if z < ROW_EDGES[0] else "back" if z > ROW_EDGES[1] else "middle"


def _place_phrases(column: str, row: str) -> tuple[str, ...]:
    if column == row == "middle":
        return ("in the very middle", "in the middle of the middle row")
    side = "in the middle" if column == "middle" else f"on the {column}"
    whole = "in the middle" if column == "middle" else f"on the {column} side"
    phrases = [f"{whole} of the {row} row"]
    if row == "middle":
        return (*phrases, f"{side} in the middle row", f"in the middle row {side}")
    phrases += [f"{side} at the {row}", f"at the {row} {side}"]
    if column == "middle":
        return (*phrases, f"in the {row} row {side}")
    # The shortest phrase is the most frequent one.
    return (*phrases, f"at the {row} {column}", f"at the {row} {column}")


PLACE_PHRASES = {(c, r): _place_phrases(c, r) for c in COLUMNS for r in ROWS}


def article(word: str) -> str:
    """`an` before a vowel, else `a`."""
    return "an" if word[0] in "aeiou" else "a"


def noun_phrases(obj: SceneObject) -> tuple[str, ...]:
    """The ways to name all four facts of an object; the first is the shortest."""
    size, material, color, shape = obj.size, obj.material, obj.color, obj.shape
    return (
        f"a {size} {material} {color} {shape}",
        f"a {size} {color} {shape} with a {material} surface",
        f"{article(color)} {color} {shape} that is {size} and {material}",
        f"a {size} {color} {shape} that is {material}",
        f"a {material} {color} {shape} that is {size}",
    )


_TOKEN = re.compile(r"[a-z]+|[^a-z\s]")


def tokens_of(text: str) -> list[str]:
    """Lower-case words and single punctuation marks, in order."""
    return _TOKEN.findall(text.lower())
