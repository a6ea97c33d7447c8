"""Captions by their source, and how true and complete they are.

Shapes: n captions, each of its own scene.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from vlv.evaluation.bench import Bench
from vlv.evaluation.metrics.statistics import Array, Bootstrap, Figure, Ratio, mean_of
from vlv.sentences import split_sentences
from vlv.world.language import caption_objects, long_caption, read_caption, tally
from vlv.world.scene import Scene
from vlv.world.wording import article

TRUE_LONG, TRUE_SHORT, OWN = "true captions, long", "true captions, short", "own captions"
FIRST_SENTENCE, OBJECTS_ONLY = "own, first sentence", "own, objects named only"
OTHER_SCENE, EMPTY = "own of another scene", "no caption"

_LONG_STREAM = 3


def caption_ratios(captions: Sequence[str], scenes: Sequence[Scene]) -> dict[str, Ratio]:
    """What captions state against the truth, scene by scene."""
    rows = [tally(caption, scene) for caption, scene in zip(captions, scenes, strict=True)]
    column = {name: _array(row[name] for row in rows) for name in rows[0]}
    return {
        "precision": Ratio(column["true"], column["claims"]),
        "recall": Ratio(column["told"], column["facts"]),
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
        ratios["ended"] = mean_of(_array(ended))
    bootstrap = Bootstrap(len(captions), seed)
    return {name: bootstrap.figure(ratio) for name, ratio in ratios.items()}


def caption_sources(bench: Bench) -> dict[str, list[str]]:
    """Captions (n) by their source: the best possible ones, the model's, and controls.

    Where a scene gets the caption of another one, it is the scene before it.
    """
    own = bench.captions
    rngs = scene_rngs(bench, _LONG_STREAM)
    return {
        TRUE_LONG: [long_caption(*pair) for pair in zip(bench.data.scenes, rngs, strict=True)],
        TRUE_SHORT: bench.data.captions,
        OWN: own,
        FIRST_SENTENCE: [first_sentence(text) for text in own],
        OBJECTS_ONLY: [objects_named(text) for text in own],
        OTHER_SCENE: [own[-1], *own[:-1]],
        EMPTY: [""] * len(own),
    }


def one_sentence_note(captions: Sequence[str]) -> str:
    """A note: first sentences score like whole captions where captions are single sentences."""
    single = sum(len(split_sentences(text)) <= 1 for text in captions)
    return f"{single} of the {len(captions)} own captions are a single sentence."


def first_sentence(caption: str) -> str:
    """A caption up to its first full stop."""
    return " ".join(split_sentences(caption)[:1])


def objects_named(caption: str) -> str:
    """A sentence with the colours and shapes of a caption's objects, brief as a COCO caption."""
    names = [
        " ".join(word for word in (one.color, one.shape) if word)
        for one in caption_objects(read_caption(caption))
    ]
    listed = " and ".join(f"{article(name)} {name}" for name in names)
    return f"There is {listed}." if names else ""


def scene_rngs(bench: Bench, stream: int) -> list[np.random.Generator]:
    """A generator a scene, so that the first scenes stay the same when there are more."""
    seed = bench.config.seed
    return [np.random.default_rng([stream, seed, i]) for i in range(len(bench.data))]


def _array(values: Iterable[float]) -> Array:
    return np.fromiter(values, dtype=np.float64)
