"""Captions of the same scenes by their source: what the tables of captions compare.

Shapes: n captions, each of its own scene.
"""

from collections.abc import Sequence

import numpy as np

from vlv.evaluation.bench import Bench
from vlv.sentences import split_sentences
from vlv.world.language import caption_objects, long_caption, read_caption
from vlv.world.lexicon import article

TRUE_LONG, TRUE_SHORT, OWN = "true captions, long", "true captions, short", "own captions"
FIRST_SENTENCE, OBJECTS_ONLY = "own, first sentence", "own, objects named only"
OTHER_SCENE, EMPTY = "own of another scene", "no caption"

_LONG_STREAM = 3


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
