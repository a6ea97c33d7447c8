"""Judges the claims of a caption by the scene, and counts what it says and what is true."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import product

from vlv.sentences import split_sentences
from vlv.world.lexicon import column_of, row_of
from vlv.world.reading import OBJECT_FACTS, Claim, read_caption
from vlv.world.scene import Scene, SceneObject

# In units of x and z. Within this distance of an edge between two columns or rows both words are
# true. If two objects differ by less, either may be called the one to the left or in front.
MARGIN = 0.05
# Facts that a complete caption states: these of every object, and floor and light.
_OF_OBJECTS = ("object", *OBJECT_FACTS)
_OF_SCENE = ("floor", "light")
# A sequence of this many words that occurs again is a repetition.
_RUN = 4


class Verdict(StrEnum):
    """What the scene says of a claim."""

    TRUE = "true"
    FALSE = "false"
    UNKNOWN = "unknown"


def judge(claims: Sequence[Claim], scene: Scene) -> list[Verdict]:
    """A verdict for each claim of one caption (all claims of `read_caption`, in its order).

    First each described object is matched with at most one object of the scene of the same shape
    and colour, and each of these is used once. If several matchings are possible, the one with the
    most true facts is used. An `object` claim is true if its object has a match. An invented
    object, and one that is described a second time, have none. Size, material, place and relations
    are judged by the match; for an object without a match they are false. Columns, rows and
    relations have a margin of `MARGIN` in which both words are true. A count must be exact.
    `unreadable` counts as false.

    A claim is `unknown` only if its words ("the cube") fit several described objects, and it is
    true for some of them but not for others.
    """
    matches = _match(claims, scene)
    return [_verdict(claim, scene, matches) for claim in claims]


def caption_counts(caption: str, scene: Scene) -> dict[str, float]:
    """Counts of one caption of one scene.

    claims: all claims; true: those that are true. A claim that is unknown or unreadable is not.
    facts: of the scene, which are shape and colour, size, material, column and row of each object,
    floor and light; stated: those that a true claim states.
    objects: of the scene; objects_found: those described with shape and colour. objects_claimed: of
    the caption; objects_invented: those that are not there.
    flawless: 1 if there are claims and all are true.
    sentences, sentences_read, words. runs: sequences of four words; runs_repeated: those that
    occurred in the caption before.
    """
    claims = read_caption(caption)
    verdicts = judge(claims, scene)
    true = [c for c, v in zip(claims, verdicts, strict=True) if v == Verdict.TRUE]
    # A fact that is stated twice in different words counts once.
    stated = {
        (c.kind, c.subject)
        for c in true
        if c.kind in _OF_SCENE or (c.kind in _OF_OBJECTS and len(c.subject) == 1)
    }
    named = [c for c in claims if c.kind == "object"]
    found = sum(c.kind == "object" for c in true)
    sentences = len(split_sentences(caption))
    unreadable = sum(c.kind == "unreadable" for c in claims)
    words = caption.split()
    runs = [tuple(words[at : at + _RUN]) for at in range(len(words) - _RUN + 1)]
    return {
        "claims": len(claims),
        "true": len(true),
        "stated": len(stated),
        "facts": len(_OF_OBJECTS) * len(scene.objects) + len(_OF_SCENE),
        "objects": len(scene.objects),
        "objects_claimed": len(named),
        "objects_found": sum(c.kind == "object" and c.color is not None for c in true),
        "objects_invented": len(named) - found,
        "flawless": float(bool(claims) and len(true) == len(claims)),
        # An empty caption counts as one sentence that says nothing.
        "sentences": max(sentences, 1),
        "sentences_read": sentences - unreadable,
        "words": len(words),
        "runs": len(runs),
        "runs_repeated": len(runs) - len(set(runs)),
    }


def _verdict(claim: Claim, scene: Scene, matches: dict[int, SceneObject]) -> Verdict:
    if claim.kind == "unreadable":
        return Verdict.FALSE
    if claim.kind == "floor":
        return _as_verdict(claim.value == scene.floor)
    if claim.kind == "light":
        return _as_verdict(claim.value == scene.light)
    if claim.kind == "count":
        return _as_verdict(_count_is_true(claim, scene))
    if claim.kind == "object":
        return _as_verdict(claim.subject[0] in matches)
    if claim.kind == "relation":
        readings = {
            _relation_is_true(claim.value, matches.get(a), matches.get(b))
            for a, b in product(claim.subject, claim.other)
        }
    else:
        readings = {_fact_is_true(claim, matches.get(i)) for i in claim.subject}
    return _as_verdict(readings.pop()) if len(readings) == 1 else Verdict.UNKNOWN


def _as_verdict(true: bool) -> Verdict:
    return Verdict.TRUE if true else Verdict.FALSE


def _count_is_true(claim: Claim, scene: Scene) -> bool:
    counted = sum(claim.value in ("", obj.size, obj.material) for obj in scene.objects)
    return counted == (len(scene.objects) if claim.number is None else claim.number)


def _fact_is_true(claim: Claim, obj: SceneObject | None) -> bool:
    if obj is None:
        return False
    if claim.kind == "size":
        return claim.value == obj.size
    if claim.kind == "material":
        return claim.value == obj.material
    word_of, place = (column_of, obj.x) if claim.kind == "column" else (row_of, obj.z)
    return claim.value in (word_of(place - MARGIN), word_of(place), word_of(place + MARGIN))


_RELATION_HOLDS: dict[str, Callable[[SceneObject, SceneObject], bool]] = {
    "to the left of": lambda a, b: a.x < b.x + MARGIN,
    "to the right of": lambda a, b: a.x > b.x - MARGIN,
    "in front of": lambda a, b: a.z < b.z + MARGIN,
    "behind": lambda a, b: a.z > b.z - MARGIN,
}


def _relation_is_true(relation: str, a: SceneObject | None, b: SceneObject | None) -> bool:
    if a is None or b is None or a is b:
        return False
    return _RELATION_HOLDS[relation](a, b)


def _match(claims: Sequence[Claim], scene: Scene) -> dict[int, SceneObject]:
    """The object of the scene that each described object is matched with, if there is one."""
    described = [claim for claim in claims if claim.kind == "object"]
    facts: list[list[Claim]] = [[] for _ in described]
    for claim in claims:
        if claim.kind in OBJECT_FACTS and len(claim.subject) == 1:
            facts[claim.subject[0]].append(claim)
    # Best (matches, true facts) and the matching itself, by the set of scene objects used.
    best: dict[frozenset[int], tuple[int, int, dict[int, int]]] = {frozenset(): (0, 0, {})}
    for number, claim in enumerate(described):
        for taken, (count, true, matching) in list(best.items()):
            for index, obj in enumerate(scene.objects):
                if index in taken or not _fits(claim, obj):
                    continue
                more = true + sum(_fact_is_true(fact, obj) for fact in facts[number])
                new = (count + 1, more, {**matching, number: index})
                if new[:2] > best.get(taken | {index}, (0, 0, {}))[:2]:
                    best[taken | {index}] = new
    _, _, matching = max(best.values(), key=lambda entry: entry[:2])
    return {number: scene.objects[index] for number, index in matching.items()}


def _fits(claim: Claim, obj: SceneObject) -> bool:
    return claim.shape == obj.shape and claim.color in (None, obj.color)
