"""What the embedded world says of a word of a caption exchanged for another, and which exchanges it
would try itself: the truth in place of the decoder, and in place of the caption decoder's guesses.
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from vlv.world.language import Claim, Verdict, judge, read_caption
from vlv.world.scene import COLORS, FLOORS, LIGHTS, MATERIALS, SHAPES, SIZES, Scene

# Words that may stand for each other. Columns and rows take other words around them.
_KINDS = (
    tuple(dict.fromkeys((*COLORS, *FLOORS))),
    tuple(SHAPES),
    tuple(SIZES),
    tuple(MATERIALS),
    tuple(dict.fromkeys((*LIGHTS, "left", "right"))),
    ("front", "back"),
    ("two", "three"),
)
_WORD = re.compile(r"[a-z]+")


def truth_of_exchange(scene: Scene, caption: str, exchanged: str) -> int:
    """How many more claims are true, less how many more are not, after the exchange; 0 where it
    changes which sentences can be read: that is a question of English, not of the picture.
    """
    before, after = read_caption(caption), read_caption(exchanged)
    if _unreadable(before) != _unreadable(after):
        return 0
    return _true_claims(after, scene) - _true_claims(before, scene)


def true_exchanges(
    scene: Scene, caption: str, rng: np.random.Generator
) -> Iterator[tuple[int, int, str]]:
    """Of each word of `caption` that states a fact: its place, and the word that makes most claims
    true there, or, where it does so itself, one that does not.
    """
    for found in _WORD.finditer(caption):
        kind = next((kind for kind in _KINDS if found[0] in kind), None)
        if kind is None:
            continue
        start, end = found.span()
        gains = {
            word: truth_of_exchange(scene, caption, caption[:start] + word + caption[end:])
            for word in kind
            if word != found[0]
        }
        most = max(gains.values())
        wrong = [word for word, gain in gains.items() if gain < 0]
        if most > 0:
            yield start, end, next(word for word, gain in gains.items() if gain == most)
        elif wrong:
            yield start, end, wrong[int(rng.integers(len(wrong)))]


def _true_claims(claims: Sequence[Claim], scene: Scene) -> int:
    return sum(1 if one == Verdict.TRUE else -1 for one in judge(claims, scene))


def _unreadable(claims: Sequence[Claim]) -> list[int]:
    return [claim.sentence for claim in claims if claim.kind == "unreadable"]
