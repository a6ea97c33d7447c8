"""How true and complete captions are.

Shapes: n captions, each of its own scene.
"""

from collections.abc import Sequence

from vlv.evaluation.metrics.statistics import Bootstrap, Figure, Ratio, by_scene, mean_of
from vlv.world.language import caption_counts
from vlv.world.scene import Scene


def caption_ratios(captions: Sequence[str], scenes: Sequence[Scene]) -> dict[str, Ratio]:
    """What captions state against the truth, scene by scene."""
    rows = [caption_counts(caption, scene) for caption, scene in zip(captions, scenes, strict=True)]
    column = {name: by_scene(row[name] for row in rows) for name in rows[0]}
    return {
        "precision": Ratio(column["true"], column["claims"]),
        "recall": Ratio(column["stated"], column["facts"]),
        "object_recall": Ratio(column["objects_found"], column["objects"]),
        "hallucinated": Ratio(column["objects_invented"], column["objects_claimed"]),
        "flawless": mean_of(column["flawless"]),
        "readable": Ratio(column["sentences_read"], column["sentences"]),
        "words": mean_of(column["words"]),
        "repeated": Ratio(column["runs_repeated"], column["runs"]),
    }


def caption_figures(
    captions: Sequence[str], scenes: Sequence[Scene], seed: int, ended: Sequence[bool] | None = None
) -> dict[str, Figure]:
    """Figures with intervals.

    precision: true claims of all claims; a claim that cannot be judged or read counts as not true.
    recall: facts stated of all facts of the scenes. object_recall: objects of the scene named with
    shape and colour. hallucinated: described objects that are not there, of all described.
    flawless: captions without a claim that is not true. readable: sentences that can be
    read. words: mean. repeated: runs of four words that stood in the caption before. ended:
    captions that the model ended itself, where `ended` is given.
    """
    ratios = caption_ratios(captions, scenes)
    if ended is not None:
        ratios["ended"] = mean_of(ended)
    return Bootstrap(len(captions), seed).figures(ratios)
