"""Counts of what a caption says and of what is true."""

from vlv.sentences import split_sentences
from vlv.world.judging import Verdict, judge
from vlv.world.reading import OBJECT_FACTS, read_caption
from vlv.world.scene import Scene

# Facts that a complete caption states: these of every object, and floor and light.
_OF_OBJECTS = ("object", *OBJECT_FACTS)
_OF_SCENE = ("floor", "light")
# A sequence of this many words that occurs again is a repetition.
_RUN = 4


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
