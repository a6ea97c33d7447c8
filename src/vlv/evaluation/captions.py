"""How true and how complete captions are, by reading them back and judging them.

Shapes: n captions, each of its own scene.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from vlv.evaluation.metrics import Array, Bootstrap, Figure, Ratio, mean_of
from vlv.world.language import Verdict, judge, read_caption, sentences_of
from vlv.world.scene import Scene

# Facts of a scene that a complete caption tells: these of every object, and floor and light.
OBJECT_FACTS = ("object", "size", "material", "column", "row")
SCENE_FACTS = ("floor", "light")


def caption_ratios(captions: Sequence[str], scenes: Sequence[Scene]) -> dict[str, Ratio]:
    """What captions say against what is there, scene by scene."""
    rows = [_row(caption, scene) for caption, scene in zip(captions, scenes, strict=True)]
    column = {name: _array(row[name] for row in rows) for name in rows[0]}
    return {
        "precision": Ratio(column["true"], column["claims"]),
        "recall": Ratio(column["told"], column["facts"]),
        "object_recall": Ratio(column["objects_found"], column["objects"]),
        "hallucinated": Ratio(column["objects_invented"], column["objects_claimed"]),
        "flawless": mean_of(column["flawless"]),
        "readable": Ratio(column["sentences_read"], column["sentences"]),
        "words": mean_of(column["words"]),
    }


def caption_figures(
    captions: Sequence[str], scenes: Sequence[Scene], seed: int, ended: Sequence[bool] | None = None
) -> dict[str, Figure]:
    """Figures with intervals.

    precision: true claims of all claims; one that cannot be told or read counts as not true.
    recall: facts told of all facts of the scenes (`OBJECT_FACTS` of each object, `SCENE_FACTS`).
    object_recall: objects of the scene named with shape and colour. hallucinated: described
    objects that are not there, of all described. flawless: captions without a claim that is not
    true. readable: sentences that can be read. words: mean. ended: captions that the model ended
    itself, where `ended` is given.
    """
    ratios = caption_ratios(captions, scenes)
    if ended is not None:
        ratios["ended"] = mean_of(_array(ended))
    bootstrap = Bootstrap(len(captions), seed)
    return {name: bootstrap.figure(ratio) for name, ratio in ratios.items()}


def _row(caption: str, scene: Scene) -> dict[str, float]:
    claims = read_caption(caption)
    verdicts = judge(claims, scene)
    true = [c for c, v in zip(claims, verdicts, strict=True) if v == Verdict.TRUE]
    # A fact told twice in other words is told once.
    told = {
        (c.kind, c.subject)
        for c in true
        if c.kind in SCENE_FACTS or (c.kind in OBJECT_FACTS and len(c.subject) == 1)
    }
    named = [c for c in claims if c.kind == "object"]
    found = sum(c.kind == "object" for c in true)
    sentences = len(sentences_of(caption))
    unreadable = sum(c.kind == "unreadable" for c in claims)
    return {
        "claims": len(claims),
        "true": len(true),
        "told": len(told),
        "facts": len(OBJECT_FACTS) * len(scene.objects) + len(SCENE_FACTS),
        "objects": len(scene.objects),
        "objects_claimed": len(named),
        "objects_found": sum(c.kind == "object" and c.color is not None for c in true),
        "objects_invented": len(named) - found,
        "flawless": float(bool(claims) and len(true) == len(claims)),
        # An empty caption is one sentence that says nothing.
        "sentences": max(sentences, 1),
        "sentences_read": sentences - unreadable,
        "words": len(caption.split()),
    }


def _array(values: Iterable[float]) -> Array:
    return np.fromiter(values, dtype=np.float64)
