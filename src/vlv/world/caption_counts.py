"""What a caption says against what is there, in counts."""

from vlv.sentences import split_sentences
from vlv.world.judging import Verdict, judge
from vlv.world.reading import OBJECT_FACTS, read_caption
from vlv.world.scene import Scene

# Facts of a scene that a complete caption tells: these of every object, and floor and light.
_OF_OBJECTS = ("object", *OBJECT_FACTS)
_OF_SCENE = ("floor", "light")
# A run of so many words that occurs again is a repetition.
_RUN = 4


def tally(caption: str, scene: Scene) -> dict[str, float]:
    """Counts of one caption of one scene.

    claims and, of them, true: one that cannot be told or read is not. facts of the scene (of each
    object its shape and colour, size, material, column and row; floor and light) and, of them,
    told. objects of the scene and, of them, objects_found with shape and colour; objects_claimed
    and, of them, objects_invented. flawless: whether there are claims and all are true. sentences
    and, of them, sentences_read. words. runs of four words and, of them, runs_repeated: those that
    stood in the caption before.
    """
    claims = read_caption(caption)
    verdicts = judge(claims, scene)
    true = [c for c, v in zip(claims, verdicts, strict=True) if v == Verdict.TRUE]
    # A fact told twice in other words is told once.
    told = {
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
        "told": len(told),
        "facts": len(_OF_OBJECTS) * len(scene.objects) + len(_OF_SCENE),
        "objects": len(scene.objects),
        "objects_claimed": len(named),
        "objects_found": sum(c.kind == "object" and c.color is not None for c in true),
        "objects_invented": len(named) - found,
        "flawless": float(bool(claims) and len(true) == len(claims)),
        # An empty caption is one sentence that says nothing.
        "sentences": max(sentences, 1),
        "sentences_read": sentences - unreadable,
        "words": len(words),
        "runs": len(runs),
        "runs_repeated": len(runs) - len(set(runs)),
    }
